"""Stages, and the store that keeps their results."""

from xmas.store.atomic import write_atomically as write_atomically
from xmas.store.provenance import commit as commit
from xmas.store.provenance import versions as versions
from xmas.store.provenance import worked_on as worked_on
from xmas.store.run_logger import RunLogger as RunLogger
from xmas.store.stage import Made as Made
from xmas.store.stage import Stage as Stage
from xmas.store.stage import content as content
from xmas.store.stage import describe as describe
from xmas.store.stage import digest as digest
from xmas.store.stage import key as key
from xmas.store.stage import nearest_stages as nearest_stages
from xmas.store.stage import read_meta as read_meta
from xmas.store.stage import sha256_of as sha256_of
from xmas.store.stage import stages_of_fields as stages_of_fields
from xmas.store.stage import type_name as type_name
from xmas.store.stage import volatile as volatile
from xmas.store.store import Store as Store
