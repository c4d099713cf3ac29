//! `gateway call`: one request through a tunnel of its own, like curl.
