"""What `evaluate.load` copies and imports: its one class is a metric of the installed cxrbench."""

from cxrbench.bridges.evaluate_metric import CxrbenchMetric


class Metric(CxrbenchMetric):
    """A metric of cxrbench, named by evaluate's `config_name`."""
