//! Counts and times of the server, for Prometheus.

use std::time::Duration;

use anyhow::Result;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

/// Upper limits of the histogram buckets, in seconds.
const SECONDS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

pub struct Telemetry {
    registry: Registry,
    requests: IntCounterVec,
    seconds: HistogramVec,
    phases: HistogramVec,
    together: Histogram,
    pub connections: IntGauge,
    refused: IntCounterVec,
    pub searches: IntGauge,
    pub pictures: IntGauge,
}

impl Telemetry {
    pub fn new() -> Result<Self> {
        let seconds = |name: &str, help: &str, labels: &[&str]| {
            HistogramVec::new(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()), labels)
        };
        let counts = vec![1.0, 2.0, 3.0, 4.0];
        let telemetry = Self {
            registry: Registry::new_custom(Some("similiai".to_owned()), None)?,
            requests: IntCounterVec::new(Opts::new("requests_total", "Requests answered"), &["route", "status"])?,
            seconds: seconds("request_seconds", "Time to answer a request", &["route"])?,
            phases: seconds("search_seconds", "Time of each part of a search", &["phase"])?,
            together: Histogram::with_opts(
                HistogramOpts::new("batch_pictures", "Pictures embedded together").buckets(counts),
            )?,
            connections: IntGauge::new("connections", "Open connections")?,
            refused: IntCounterVec::new(Opts::new("refused_total", "Refused requests, by reason"), &["why"])?,
            searches: IntGauge::new("searches", "Searches that wait or run")?,
            pictures: IntGauge::new("gallery_pictures", "Pictures in the gallery; 0 before there is one")?,
        };
        telemetry.registry.register(Box::new(telemetry.requests.clone()))?;
        telemetry.registry.register(Box::new(telemetry.seconds.clone()))?;
        telemetry.registry.register(Box::new(telemetry.phases.clone()))?;
        telemetry.registry.register(Box::new(telemetry.together.clone()))?;
        telemetry.registry.register(Box::new(telemetry.connections.clone()))?;
        telemetry.registry.register(Box::new(telemetry.refused.clone()))?;
        telemetry.registry.register(Box::new(telemetry.searches.clone()))?;
        telemetry.registry.register(Box::new(telemetry.pictures.clone()))?;
        Ok(telemetry)
    }

    pub fn answered(&self, route: &str, status: u16, took: Duration) {
        self.requests.with_label_values(&[route, &status.to_string()]).inc();
        self.seconds.with_label_values(&[route]).observe(took.as_secs_f64());
    }

    pub fn decoded(&self, took: Duration) {
        self.phases.with_label_values(&["decode"]).observe(took.as_secs_f64());
    }

    pub fn embedded(&self, together: usize, took: Duration) {
        if together > 0 {
            self.together.observe(together as f64);
            self.phases.with_label_values(&["embed"]).observe(took.as_secs_f64());
        }
    }

    pub fn searched(&self, took: Duration) {
        self.phases.with_label_values(&["search"]).observe(took.as_secs_f64());
    }

    pub fn refuse(&self, why: &str) {
        self.refused.with_label_values(&[why]).inc();
    }

    /// Returns everything in the text format that Prometheus reads.
    pub fn text(&self) -> Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8(text)?)
    }
}
