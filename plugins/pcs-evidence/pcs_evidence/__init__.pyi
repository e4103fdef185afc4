"""What other distributions import."""

from pcs_evidence.evidence import STATUSES as STATUSES
from pcs_evidence.evidence import Effect as Effect
from pcs_evidence.evidence import Evidence as Evidence
from pcs_evidence.evidence import Run as Run
from pcs_evidence.evidence import Standing as Standing
from pcs_evidence.evidence import judge as judge
from pcs_evidence.evidence import plain as plain
from pcs_evidence.evidence import read_evidence as read_evidence
from pcs_evidence.evidence import recipe_code_hash as recipe_code_hash
from pcs_evidence.evidence import recipe_hash as recipe_hash
from pcs_evidence.sources import written as written
from pcs_evidence.status import SystemRow as SystemRow
from pcs_evidence.status import system_status as system_status
from pcs_evidence.status import systems as systems
from pcs_evidence.status import where as where
from pcs_evidence.status import with_sources as with_sources

__all__: list[str]
