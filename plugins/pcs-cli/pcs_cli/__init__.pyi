"""What plugins with commands import."""

from pcs_cli.opening import device_name as device_name
from pcs_cli.output_folder import destination as destination
from pcs_cli.progress import reporting as reporting

__all__: list[str]
