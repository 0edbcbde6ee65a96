"""The one exception for what the user can mend; the command line prints it as a sentence, without a traceback."""


class UserError(Exception):
    """A wrong argument, a broken file, a contradiction in the settings: the message says what to change."""
