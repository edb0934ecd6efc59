"""What the tests of the page share: one page of the tiny model, and Chromium."""

import pytest

from tests.rendering.reader import chromium, page_of_the_tiny_model


@pytest.fixture(scope="session")
def page(tmp_path_factory):
    return page_of_the_tiny_model(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def browser():
    with chromium() as launched:
        yield launched
