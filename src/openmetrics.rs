//! Metrics in OpenMetrics' format: it has room for exemplars, traces of single requests beside the buckets that count them.

use std::fmt::Write;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::proto::{LabelPair, MetricFamily, MetricType};

/// How the format is called, as an answer's type.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The last traced request of each bucket of a histogram.
pub(crate) struct Exemplars {
    /// Whose buckets they are.
    name: &'static str,
    bounds: &'static [f64],
    /// One for each bound, and one for what is above all.
    last: Vec<Mutex<Option<Exemplar>>>,
}

#[derive(Clone, Copy, Debug)]
struct Exemplar {
    trace: [u8; 16],
    seconds: f64,
    /// Milliseconds since 1970.
    at: u64,
}

impl Exemplars {
    /// None yet, for a histogram with these buckets.
    pub(crate) fn new(name: &'static str, bounds: &'static [f64]) -> Self {
        Self { name, bounds, last: (0..=bounds.len()).map(|_| Mutex::default()).collect() }
    }

    /// A request of this trace took so long, and ended at this many milliseconds since 1970.
    pub(crate) fn note(&self, trace: [u8; 16], took: Duration, at: u64) {
        let seconds = took.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        if let Some(last) = self.last.get(bucket) {
            *last.lock() = Some(Exemplar { trace, seconds, at });
        }
    }

    fn write(&self, bucket: usize, out: &mut String) {
        let Some(Exemplar { trace, seconds, at }) = self.last.get(bucket).and_then(|last| *last.lock())
        else {
            return;
        };
        let trace = u128::from_be_bytes(trace);
        let _ = write!(out, " # {{trace_id=\"{trace:032x}\"}} {seconds} {}.{:03}", at / 1000, at % 1000);
    }
}

/// Whether a client would rather have this format than plain text: its headers `accept`.
pub(crate) fn is_wanted<'a>(accept: impl Iterator<Item = &'a str>) -> bool {
    let (mut own, mut plain) = (0.0_f64, 0.0_f64);
    for range in accept.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let (mut weight, mut version) = (1.0, None);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name.trim_end() {
                "q" => weight = value.trim_start().parse().unwrap_or(0.0),
                "version" => version = Some(value.trim_start().trim_matches('"')),
                _ => {}
            }
        }
        if kind.eq_ignore_ascii_case("application/openmetrics-text") {
            if version.is_none_or(|version| version == "1.0.0") {
                own = own.max(weight);
            }
        } else if kind.eq_ignore_ascii_case("text/plain") {
            plain = plain.max(weight);
        }
    }
    own > 0.0 && own >= plain
}

/// Everything that was gathered, with exemplars for one histogram.
pub(crate) fn encode(families: &[MetricFamily], exemplars: &Exemplars) -> String {
    let mut out = String::new();
    for family in families {
        let full = family.name();
        let (kind, name) = match family.get_field_type() {
            MetricType::COUNTER => ("counter", full.strip_suffix("_total").unwrap_or(full)),
            MetricType::HISTOGRAM => ("histogram", full),
            // There are no others.
            _ => ("gauge", full),
        };
        let _ = writeln!(out, "# TYPE {name} {kind}\n# HELP {name} {}", escaped(family.help()));
        for metric in family.get_metric() {
            let labels = metric.get_label();
            match family.get_field_type() {
                MetricType::COUNTER => {
                    sample(&mut out, name, "_total", labels, None, metric.get_counter().get_value());
                }
                MetricType::HISTOGRAM => {
                    let histogram = metric.get_histogram();
                    let mut buckets: Vec<_> = histogram
                        .get_bucket()
                        .iter()
                        .map(|b| (b.upper_bound(), b.cumulative_count()))
                        .collect();
                    if buckets.last().is_none_or(|(bound, _)| bound.is_finite()) {
                        buckets.push((f64::INFINITY, histogram.get_sample_count()));
                    }
                    for (at, (bound, count)) in buckets.into_iter().enumerate() {
                        sample(&mut out, name, "_bucket", labels, Some(bound), count as f64);
                        if full == exemplars.name {
                            exemplars.write(at, &mut out);
                        }
                        out.push('\n');
                    }
                    sample(&mut out, name, "_sum", labels, None, histogram.get_sample_sum());
                    out.push('\n');
                    sample(&mut out, name, "_count", labels, None, histogram.get_sample_count() as f64);
                }
                _ => sample(&mut out, name, "", labels, None, metric.get_gauge().get_value()),
            }
            out.push('\n');
        }
    }
    out.push_str("# EOF\n");
    out
}

/// One line, without its end. `bound`: that of a bucket.
fn sample(out: &mut String, name: &str, suffix: &str, labels: &[LabelPair], bound: Option<f64>, value: f64) {
    out.push_str(name);
    out.push_str(suffix);
    let mut before = '{';
    for label in labels {
        let _ = write!(out, "{before}{}=\"{}\"", label.name(), escaped(label.value()));
        before = ',';
    }
    if let Some(bound) = bound {
        // Whole numbers have a point here.
        let bound = if bound.is_finite() { format!("{bound:?}") } else { "+Inf".to_owned() };
        let _ = write!(out, "{before}le=\"{bound}\"");
        before = ',';
    }
    if before == ',' {
        out.push('}');
    }
    let _ = write!(out, " {value}");
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use prometheus::{Gauge, HistogramOpts, IntCounterVec, Opts, Registry};

    use super::*;

    #[test]
    fn each_kind_has_its_lines_and_traces_stand_at_their_bucket() {
        let registry = Registry::new();
        let counter = IntCounterVec::new(Opts::new("a_things_total", "Things, \"all\"."), &["kind"]).unwrap();
        counter.with_label_values(&["x\"\\\ny"]).inc_by(3);
        let gauge = Gauge::new("b_size", "Its\nsize.").unwrap();
        gauge.set(0.5);
        let bounds = &[0.5, 1.0, 25.0];
        let histogram = |name: &str| {
            let opts = HistogramOpts::new(name, "Times.").buckets(bounds.to_vec());
            let histogram = prometheus::Histogram::with_opts(opts).unwrap();
            [0.25, 1.0, 30.0].into_iter().for_each(|seconds| histogram.observe(seconds));
            histogram
        };
        registry.register(Box::new(counter)).unwrap();
        registry.register(Box::new(gauge)).unwrap();
        registry.register(Box::new(histogram("c_seconds"))).unwrap();
        registry.register(Box::new(histogram("d_seconds"))).unwrap();
        let exemplars = Exemplars::new("c_seconds", bounds);
        let trace = |nth: u8| std::array::from_fn(|at| if at == 0 { 0x0a } else { nth });
        // The last of a bucket counts, and a bound is the bucket's below it.
        exemplars.note(trace(1), Duration::from_millis(800), 1_700_000_000_000);
        exemplars.note(trace(2), Duration::from_secs(1), 1_700_000_000_007);
        exemplars.note(trace(3), Duration::from_secs(30), 1_700_000_001_120);
        let expected = r##"# TYPE a_things counter
# HELP a_things Things, \"all\".
a_things_total{kind="x\"\\\ny"} 3
# TYPE b_size gauge
# HELP b_size Its\nsize.
b_size 0.5
# TYPE c_seconds histogram
# HELP c_seconds Times.
c_seconds_bucket{le="0.5"} 1
c_seconds_bucket{le="1.0"} 2 # {trace_id="0a020202020202020202020202020202"} 1 1700000000.007
c_seconds_bucket{le="25.0"} 2
c_seconds_bucket{le="+Inf"} 3 # {trace_id="0a030303030303030303030303030303"} 30 1700000001.120
c_seconds_sum 31.25
c_seconds_count 3
# TYPE d_seconds histogram
# HELP d_seconds Times.
d_seconds_bucket{le="0.5"} 1
d_seconds_bucket{le="1.0"} 2
d_seconds_bucket{le="25.0"} 2
d_seconds_bucket{le="+Inf"} 3
d_seconds_sum 31.25
d_seconds_count 3
# EOF
"##;
        assert_eq!(encode(&registry.gather(), &exemplars), expected);
    }

    #[test]
    fn only_who_asks_for_it_gets_it() {
        let wanted = |accept: &str| is_wanted(std::iter::once(accept));
        for accept in [
            "application/openmetrics-text",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            // Prometheus 2 and 3.
            "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
        ] {
            assert!(wanted(accept), "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/plain",
            "text/html,*/*;q=0.8",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=x",
            "application/openmetrics-text;version=0.0.1",
            "text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5",
        ] {
            assert!(!wanted(accept), "{accept}");
        }
    }
}
