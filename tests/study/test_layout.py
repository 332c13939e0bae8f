from apmae.artifacts import manifest_path
from apmae.study.layout import Layout


def test_a_study_that_was_run_has_this_layout(real_study):
    layout = Layout(real_study.folder)
    assert layout.settings.is_file()
    for artifact in (
        layout.prompts,
        layout.encoder,
        layout.embeddings,
        layout.atlas,
        layout.report,
    ):
        assert manifest_path(artifact).is_file()
