"""What a proxy or a target may start from."""

from xmas.models.assembled import Assembled
from xmas.models.published import Published
from xmas.training.starts.pretrained import Pretrained

StartPoint = Pretrained | Assembled | Published
