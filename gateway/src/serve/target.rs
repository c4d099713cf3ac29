//! From a granted request to a target inside the cluster: resolve the name, judge every address, connect to a judged
//! one, and carry bytes both ways. Each failure says whether the target may have seen the request.

pub mod address;
pub mod body;
pub mod dial;
pub mod head;
pub mod http;
pub mod kubernetes;
pub mod manner;
pub mod naming;
pub mod pipe;
pub mod pool;
pub mod pools;
pub mod resolve;
pub mod route;
pub mod shared;
pub mod unix;
pub mod wire;
