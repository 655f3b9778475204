"""The one exception that `finetune_bert.main` turns into a line and exit code 2."""


class UserError(Exception):
    """Something the person at the keyboard can put right; its text says what."""

    def __str__(self) -> str:
        # Messages of other libraries end up in here: keep to the one line promised.
        return " ".join(super().__str__().split())
