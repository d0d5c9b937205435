"""What each type of stage costs: functions registered with `work`.

Every module here is imported with the package, so the costs of a new stage are one function in one
of them. A stage from outside this repository registers its function in its own module.
"""

import importlib
import pkgutil

from xmas.estimate.work import work as work

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
