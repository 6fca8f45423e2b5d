"""Exceptions: mistakes of a user, which end a script with one line, rows that cannot be used, and errors of one process."""


class UserError(Exception):
    """A user's mistake. The message says what is wrong, where, and what to do; scripts print it as one line."""


class UnusableRow(Exception):
    """A row that cannot be used, caught where ``BadRows`` collects them: what is wrong, and what to do."""

    def __init__(self, problem: str, remedy: str):
        self.problem, self.remedy = problem, remedy


class ProcessError(UserError):
    """An error that may hit only one process, such as running out of memory; that process prints it, whatever its rank."""


class Interrupted(Exception):
    """A signal asked the run to stop, and what could be saved is saved."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.signal_number = signal_number
