"""The outcome of one check of the doctor."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Finding:
    """OK, WARN or FAIL about a subject, what was found, and the remedy."""

    level: str  # OK, WARN, FAIL
    subject: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.level:4}  {self.subject}: {self.message}"
        return f"{line}\n      -> {self.remedy}" if self.remedy else line
