//! What is tested here stands in `tests/`, and on the page `docs/interop.md`.
