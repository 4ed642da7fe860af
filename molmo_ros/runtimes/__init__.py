"""What executes the network: one file per runtime, all behind ``base.Runtime``."""
