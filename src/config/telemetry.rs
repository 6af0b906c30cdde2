//! `telemetry`: what other programs are told of each request.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `telemetry`: traces for OpenTelemetry.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// Where traces go.
    pub otlp: Otlp,
}

/// `telemetry.otlp`: where traces go.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Otlp {
    /// URL (http or https) that takes OTLP over HTTP in protobuf, such as `http://collector:4318/v1/traces`; none = no traces. It needs `sight.enabled`.
    pub endpoint: Option<String>,
    /// Share, 0 to 1, of the requests without a `traceparent` in their transaction metadata that are traced; those with one are as its flag says.
    #[schemars(extend("x-min" = "0", "x-max" = "1"))]
    pub sample: f64,
}

impl Otlp {
    /// Whether anything is traced.
    pub(crate) fn is_on(&self) -> bool {
        cfg!(feature = "otel") && self.endpoint.is_some()
    }
}

impl Default for Otlp {
    fn default() -> Self {
        Self { endpoint: None, sample: 0.01 }
    }
}
