"""The errors that a user can mend: stages print them as one line."""


class UserError(Exception):
    """Something outside the code is wrong; the message names it and the way out."""
