//! HTTP senders, as raw bytes on one side and JSON messages on the other.
mod access;
mod choice;
mod connection;
mod control;
mod deadlines;
mod describe;
mod head;
mod listener;
mod reload;
mod rendezvous;
mod shares;
mod support;
