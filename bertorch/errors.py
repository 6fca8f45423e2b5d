"""The one exception for mistakes a user can mend: wrong file, wrong flag, wrong row."""


class UserError(Exception):
    """A mistake of the user's. The message says what is wrong, where, and what to do; scripts print it as one line."""
