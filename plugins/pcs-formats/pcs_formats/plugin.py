"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def services() -> Mapping[str, str]:
    """What the core and the command ask for by name."""
    return {
        "drawing_origin": "pcs_formats.origin:drawing_texts",
        "export": "pcs_formats.exporting:export",
        "recorded_origin": "pcs_formats.origin:recorded",
    }


@catalogue_hookimpl
def commands() -> Mapping[str, str]:
    """Commands beside the core's own."""
    return {
        "import": "pcs_formats.commands:import_app",
        "inspect": "pcs_formats.commands:inspect_app",
    }


@catalogue_hookimpl
def importers() -> Mapping[str, str]:
    """Files of other tools as artifacts."""
    return {
        "adapter": "pcs_formats.adapter_files:read_adapter",
        "control": "pcs_formats.picture_control_files:read_control_files",
        "custom": "pcs_formats.custom_files:read_custom",
        "layers": "pcs_formats.lora_files:read_layers",
        "motion": "pcs_formats.motion_files:read_motion",
        "word": "pcs_formats.word_files:read_words",
    }


@catalogue_hookimpl
def exporters() -> Mapping[str, str]:
    """Files that other tools load."""
    return {
        "controlnet": "pcs_formats.control_export:write_controlnet",
        "diffusers": "pcs_formats.weight_files:write_diffusers",
        "ip-adapter": "pcs_formats.adapter_export:write_ip_adapter",
        "kohya": "pcs_formats.weight_files:write_kohya",
    }
