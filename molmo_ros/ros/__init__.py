"""The ROS 2 side: nodes, messages, parameters. Importing this package alone needs no ROS."""
