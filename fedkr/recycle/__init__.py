"""Knowledge Recycling: teacher, checkpoint optimisation, tuning, distillation, and the pipeline in order."""

from fedkr.recycle.guaranteed import pipeline_class
from fedkr.recycle.pipeline import SitePipeline
