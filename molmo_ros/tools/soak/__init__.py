"""Hours of use in minutes, with faults: is a request lost, does memory grow, does the node slow down?"""
