"""The web view: one page with what the robot sees and answers, served to browsers. Knows no ROS.

``hub.py`` keeps the newest message of each kind, ``seat.py`` sends it to a page, ``access.py`` decides who
has access. A source (``source.py``) fills the hub: ``recorded.py`` from files, ``ros/web_node.py`` from a
node.
"""

HOST, PORT = "127.0.0.1", 8137  # where the page is served
