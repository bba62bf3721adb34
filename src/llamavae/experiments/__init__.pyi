from .correlation import relate as relate
from .study import (
    definition_task as definition_task,
)
from .study import (
    study_definitions as study_definitions,
)
from .study import (
    study_flows as study_flows,
)
from .sweep import (
    Sweep as Sweep,
)
from .sweep import (
    SweepRun as SweepRun,
)
from .sweep import (
    parse_vary as parse_vary,
)
from .sweep import (
    run_sweep as run_sweep,
)
from .sweep import (
    sweep_runs as sweep_runs,
)
