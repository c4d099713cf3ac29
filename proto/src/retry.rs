//! When to try again: exponential intervals with full jitter, a peer's hint obeyed within bounds, and a reset that
//! only a healthy spell earns.
