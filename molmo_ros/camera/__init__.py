"""Camera messages to numpy: images, depth, camera_info, and which of them belong together. Needs no rclpy."""
