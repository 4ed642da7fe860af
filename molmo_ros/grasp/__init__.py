"""From an object to a grasp: candidates, collision checks, ranking."""
