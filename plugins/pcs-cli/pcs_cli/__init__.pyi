"""What plugins with commands import."""

from pcs_cli.locks import lock_file as lock_file
from pcs_cli.opening import device_name as device_name
from pcs_cli.output import emit as emit
from pcs_cli.output import notice as notice
from pcs_cli.output import printable as printable
from pcs_cli.output_folder import destination as destination
from pcs_cli.progress import reporting as reporting
from pcs_cli.sizes import read_size as read_size
from pcs_cli.verdicts import read_verdict as read_verdict
from pcs_cli.verdicts import write_verdict as write_verdict

__all__: list[str]
