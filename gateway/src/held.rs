//! The limit on what a process holds of other people's bytes, and what the metrics tell of it.

use daemon::{config::Size, metrics::Metrics};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};
use proto::tunnel::budget::Budget;

/// The setting, in gateway and connector.
const NAME: &str = "limits.buffers";

/// A budget of this size, shown in these metrics.
pub(crate) fn budget(limit: Size, metrics: &Metrics) -> Budget {
    let budget = Budget::new(NAME, usize::try_from(limit.0).unwrap_or(usize::MAX));
    metrics.register(|registry| registry.register_collector(Box::new(Shown(budget.clone()))));
    budget
}

/// Reads the budget when somebody looks.
#[derive(Debug)]
struct Shown(Budget);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let held = ConstGauge::new(i64::try_from(self.0.held()).unwrap_or(i64::MAX));
        let what = "Payload held: received and not taken, or not written";
        held.encode(encoder.encode_descriptor("held_bytes", what, None, held.metric_type())?)?;
        let counts = self.0.counts();
        for (name, what, count) in [
            ("held_refused", "Streams not begun because too much was held", counts.refused),
            ("held_reset", "Streams reset because they held most", counts.reset),
        ] {
            let count = ConstCounter::new(count);
            count.encode(encoder.encode_descriptor(name, what, None, count.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_among_the_metrics() {
        let metrics = Metrics::new("causeway_test");
        let _budget = budget(Size(1 << 20), &metrics);
        let text = metrics.encode();
        for line in ["causeway_test_held_bytes 0\n", "causeway_test_held_refused_total 0\n", "_held_reset_total 0\n"] {
            assert!(text.contains(line), "{text}");
        }
    }
}
