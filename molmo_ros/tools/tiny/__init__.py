"""Training of the built-in model, from scratch, on simulated tables.

    python -m molmo_ros.tools.tiny.data  --frames 32000 --out DATA      # both cores: --workers 2
    python -m molmo_ros.tools.tiny.train --data DATA --out RUN          # resumable, three stages
    python -m molmo_ros.tools.tiny.export --run RUN --out molmo_ros/assets/tiny

data -> frames with instance ids; questions -> text about them; tokenizer; model -> configuration and
auxiliary targets; train -> vision, then everything; export -> the layout of an official checkpoint.
"""
