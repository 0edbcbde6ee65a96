"""Deep or wide: the shapes of students that fit a budget of parameters, multiply-accumulates or both."""
