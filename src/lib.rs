//! Sidebolt.
