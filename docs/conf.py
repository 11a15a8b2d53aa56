"""Sphinx: ``python -m sphinx -W -n -b html docs docs/_build/html``. No network is needed; the gallery runs meanwhile.

`.ci/docs` installs what is needed, builds, and looks for dead links.
"""

import re
import sys
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

import fastcorr

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "examples"))  # the gallery uses them

project = "fastcorr"
author = "the fastcorr authors"
copyright = author
version = release = fastcorr.__version__

extensions = [
    "matplotlib.sphinxext.plot_directive",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery", "guide/figures", "**sg_execution_times.rst", "sg_execution_times.rst"]
if find_spec("torch") is None:  # it is too large to ask for
    exclude_patterns += ["api/torch.rst"]
suppress_warnings = ["toc.excluded"]
templates_path = ["_templates"]
default_role = "autolink"  # `correlate` in a docstring is a link
nitpicky = True

autodoc_typehints = "none"  # docstrings name the types, with shapes
autosummary_generate = True
numpydoc_show_class_members = False
numpydoc_validation_checks = {"all", "ES01", "PR03", "PR04", "RT02", "SA01", "SA03", "SS02", "SS05"}  # all but these

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
copybutton_prompt_text = ">>> |\\.\\.\\. |\\$ "
copybutton_prompt_is_regexp = True

plot_html_show_formats = False
plot_html_show_source_link = False
plot_formats = [("png", 110)]
plot_basedir = str(DOCS / "guide" / "figures")
plot_rcparams = {"figure.constrained_layout.use": True, "font.size": 10}

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "filename_pattern": r"/plot_",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "backreferences_dir": "api/generated/gallery",
    "doc_module": ("fastcorr",),
    "reference_url": {"fastcorr": None},
    "image_scrapers": ("matplotlib",),
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "capture_repr": (),
    "remove_config_comments": True,
}

html_domain_indices = False
html_theme = "pydata_sphinx_theme"
html_title = f"fastcorr {release}"
html_static_path = ["_static"]
html_css_files = ["fastcorr.css"]
html_copy_source = html_show_sourcelink = False
html_sidebars = {"index": [], "performance": [], "changelog": [], "contributing": []}
html_theme_options = {
    "navbar_align": "left",
    "navbar_persistent": ["search-button"],
    "navbar_end": ["theme-switcher"],
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": {"**": ["page-toc"], "index": [], "performance": []},
    "header_links_before_dropdown": 7,
    "pygments_light_style": "tango",
    "pygments_dark_style": "monokai",
}


class Run(SphinxDirective):
    """Python code, run while the page is built, and below it what it really printed. Blocks of a page share names."""

    has_content = True

    def run(self):
        code = "\n".join(self.content)
        names = self.env.temp_data.setdefault("run directive", {})
        with redirect_stdout(StringIO()) as printed:
            exec(compile(code, self.get_location(), "exec"), names)
        shown = nodes.literal_block(code, code, language="python")
        output = nodes.literal_block(printed.getvalue(), printed.getvalue(), language="none", classes=["printed"])
        return [shown, output]


class Pictures(SphinxDirective):
    """``GROUP: what it is`` per line: the picture that asv_benchmarks/compare.py made of it, where there is one."""

    has_content = True

    def run(self):
        shown = []
        for line in self.content:
            group, _, title = line.partition(": ")
            path = f"performance/{group}.svg"
            self.env.note_dependency(DOCS / path)
            if (DOCS / path).exists():
                shown.append(nodes.image(uri=path, alt=f"Times of {title}, each library's in terms of fastcorr's"))
        return shown


def escape_shapes(app, what, name, obj, options, lines):
    """``x : array_like, shape (N, *S)``: the asterisk is no emphasis."""
    for i, line in enumerate(lines):
        name, shape, rest = line.partition(", shape (")
        if shape:
            lines[i] = name + shape + re.sub(r"\*", r"\\*", rest)


def setup(app):
    app.add_directive("run", Run)
    app.add_directive("pictures", Pictures)
    app.connect("autodoc-process-docstring", escape_shapes, priority=100)  # before numpydoc
