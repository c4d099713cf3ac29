use super::*;
use crate::tunnel::failure::{Code, Reached};

#[tokio::test]
async fn caller_that_drops_its_sender_is_seen_by_the_gateway() {
    let mut pair = Pair::new().await;
    let (up, down, mut served) = pair.forward().await;
    drop(up);
    served.sender.cancelled().await;
    assert_eq!(failure(&mut served.receiver).await.code, Code::Cancelled);
    assert_eq!(served.sender.data(bytes(10)).await.unwrap_err().code, Code::Cancelled);
    drop(down);
}

#[tokio::test]
async fn caller_that_cancels_after_its_fin_is_seen_by_the_gateway() {
    let mut pair = Pair::new().await;
    let (mut up, _down, mut served) = pair.forward().await;
    up.fin(pb::Fin::default()).await.unwrap();
    message(&mut served.receiver).await;
    up.cancel();
    served.sender.cancelled().await;
}

#[tokio::test]
async fn gateway_that_gives_up_silently_is_an_internal_failure_at_the_caller() {
    let mut pair = Pair::new().await;
    let (mut up, mut down, served) = pair.forward().await;
    drop(served);
    let seen = failure(&mut down).await;
    assert_eq!((seen.code, seen.reached), (Code::Internal, Reached::Maybe));
    assert_eq!(up.data(bytes(10)).await.unwrap_err().code, Code::Internal);
}

#[tokio::test]
async fn both_ends_may_cancel_at_once() {
    let mut pair = Pair::new().await;
    for _ in 0..50 {
        let (mut up, mut down, served) = pair.forward().await;
        up.cancel();
        served.sender.fail(&Failure::after_target(Code::TargetBroken, "gone"));
        let seen = failure(&mut down).await;
        assert!([Code::Cancelled, Code::TargetBroken].contains(&seen.code), "{seen:?}");
    }
    let (_up, _down, _served) = pair.forward().await;
    assert!(pair.client.is_open());
}

#[tokio::test]
async fn sender_blocked_on_credit_is_woken_by_the_peers_end() {
    let mut pair = Pair::new().await;
    let (mut up, mut down, served) = pair.forward().await;
    let stuffing = async {
        loop {
            if let Err(failure) = up.data(bytes(60_000)).await {
                return failure;
            }
        }
    };
    let ending = async {
        served.sender.fail(&Failure::after_target(Code::TargetBroken, "gone"));
        drop(served.receiver);
        failure(&mut down).await
    };
    let (sending, seen) = tokio::join!(stuffing, ending);
    assert_eq!(sending.code, Code::Cancelled);
    assert_eq!(seen, Failure::after_target(Code::TargetBroken, "gone"));
}

#[tokio::test]
async fn cancelled_streams_do_not_wear_the_tunnel_out() {
    let mut pair = Pair::new().await;
    for _ in 0..1500 {
        let (mut up, down, mut served) = pair.forward().await;
        served.sender.data(bytes(1000)).await.unwrap();
        up.cancel();
        drop((up, down, served));
    }
    assert!(pair.client.is_open());
    pair.forward().await;
}
