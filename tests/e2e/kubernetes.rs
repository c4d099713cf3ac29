//! Against a real Kubernetes control plane.

mod control_plane;
mod describe;
mod kubectl;
mod people;
mod refusals;
mod sources;
mod world;
