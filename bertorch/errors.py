"""What ends a script with one line: mistakes that a user can mend, and what one process of several met."""


class UserError(Exception):
    """A user's mistake. The message says what is wrong, where, and what to do; scripts print it as one line."""


class ProcessError(UserError):
    """An error that one process may meet alone, such as no memory left; that process prints it, whatever its rank."""


class Interrupted(Exception):
    """The run was asked to stop by a signal, and what could be saved is saved."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.signal_number = signal_number
