"""Published students have the sizes that their papers give them."""

from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.size import count_size
from fairseq_distill.shapes.published import PUBLISHED

# in millions, without heads; the derived ones from the papers' own code and figures
COUNTS = {
    "12-L HALF": 26.87,
    "LightHuBERT Small": 26.87,
    "3-L ONE": 30.58,
    "2-L ONE": 23.49,
    "DistilHuBERT": 23.49,
    "6-L HALF": 16.23,
    "3-L HALF": 10.90,
    "12-L QUARTER": 9.93,
    "FitHuBERT": 21.20,
    "ARMHuBERT": 22.02,
    "ARMHuBERT-S": 18.40,
    "MaskHuBERT": 22.20,
    "STaRHuBERT": 22.31,
    "STaRHuBERT-L": 26.63,
}


def test_published_students_have_their_counts():
    found = {s.name: round(count_size(s.make_config(EncoderConfig())).parameters / 1e6, 2) for s in PUBLISHED}
    assert found == COUNTS
