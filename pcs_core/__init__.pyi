"""The public names of the core, each once; `pcs_core.facade` reads them from here."""

from pcs_core.assembly import load_preset as load_preset
from pcs_core.assembly import load_recipe as load_recipe
from pcs_core.assembly import recipe_from_document as recipe_from_document
from pcs_core.backbone import Backbone as Backbone
from pcs_core.caches import cache_folder as cache_folder
from pcs_core.catalogue import installed as installed
from pcs_core.errors import PcsError as PcsError
from pcs_core.hookspecs import catalogue_hookimpl as catalogue_hookimpl
from pcs_core.hookspecs import hookimpl as hookimpl
from pcs_core.storage import load as load
from pcs_core.storage import save as save
from pcs_core.technique import Technique as Technique
from pcs_engine import fit as fit
from pcs_engine import open_backbone as open_backbone
from pcs_engine import open_engine as open_engine
from pcs_engine import sample as sample
from pcs_engine import text_features as text_features
from pcs_engine.prepare import fit_image as fit_image
from pcs_engine.shown import how_to_name_concepts as how_to_name_concepts
from pcs_engine.shown import said_concepts as said_concepts
from pcs_engine.shown import shown_concepts as shown_concepts

# beside the core, where they are installed: names of a library, and services of plugins
from pcs_folders.images import read_planes as read_planes
from pcs_folders.pictures import sheet as sheet
from pcs_folders.pictures import write_png as write_png
from pcs_folders.subjects import load_subject as load_subject
from pcs_formats.exporting import export as export
from pcs_merging.merging import merge_personalizations as merge_personalizations
from pcs_merging.stacking import stack_personalizations as stack_personalizations
from pcs_pretrain.folder_records import FolderRecords as FolderRecords
from pcs_pretrain.training import pretrain as pretrain
from pcs_video.clip_files import clip_files as clip_files

__version__: str
__all__: list[str]
