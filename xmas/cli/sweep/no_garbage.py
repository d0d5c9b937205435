"""Turn the collection of garbage off, in the server of jobs, which imports this first.

Imports make a million objects and no garbage. Each job, as every command, turns it on again when
its goal is made.
"""

import gc

gc.disable()
