"""The longest episode, which the registration of the environments and their settings both name."""

# More steps than a network is trained for; ids are registered with one more, so that no episode is ever cut.
MAX_STEPS = 1000
