//! Metrics of one process: constructors that register, and the text page.

use std::fmt;
use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec as Histograms, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::process;

/// Buckets for latencies inside a node. Unit: s; 100 µs to 10 s.
pub const LATENCY_BUCKETS_S: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Registry of one process. Cheap to clone; all clones share the metrics.
#[derive(Clone, Default)]
pub struct Metrics {
    registry: Arc<Registry>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// A family of counters over a closed set of label values: an index, never a string, chooses the series.
#[derive(Debug, Clone)]
pub struct CounterVec {
    series: Arc<[IntCounter]>,
}

impl CounterVec {
    /// The series of the `index`-th label value given at registration.
    ///
    /// # Panics
    /// When `index` is outside the closed set.
    #[must_use]
    pub fn at(&self, index: usize) -> &IntCounter {
        self.series.get(index).expect("the index belongs to the closed label set")
    }
}

/// A family of gauges over a closed set of label values.
#[derive(Debug, Clone)]
pub struct GaugeVec {
    series: Arc<[IntGauge]>,
}

impl GaugeVec {
    /// The series of the `index`-th label value given at registration.
    ///
    /// # Panics
    /// When `index` is outside the closed set.
    #[must_use]
    pub fn at(&self, index: usize) -> &IntGauge {
        self.series.get(index).expect("the index belongs to the closed label set")
    }
}

/// A label and its closed set of values.
pub type Label<'a> = (&'a str, &'a [&'a str]);

/// A family over two labels with closed sets of values.
#[derive(Debug, Clone)]
pub struct Grid<M> {
    cells: Arc<[M]>,
    columns: usize,
}

/// Counters over two labels.
pub type CounterGrid = Grid<IntCounter>;
/// Histograms over two labels.
pub type HistogramGrid = Grid<Histogram>;

impl<M> Grid<M> {
    fn new((_, rows): Label<'_>, (_, columns): Label<'_>, cell: impl Fn(&[&str]) -> M) -> Self {
        let cells = rows.iter().flat_map(|row| columns.iter().map(|column| cell(&[*row, *column])).collect::<Vec<_>>());
        Self { cells: cells.collect(), columns: columns.len() }
    }

    /// The series of the `row`-th value of the first label and the `column`-th of the second.
    ///
    /// # Panics
    /// When one of them is outside its closed set.
    #[must_use]
    pub fn at(&self, row: usize, column: usize) -> &M {
        assert!(column < self.columns, "the column belongs to the closed label set");
        self.cells.get(row * self.columns + column).expect("the row belongs to the closed label set")
    }
}

/// A family of histograms over a closed set of label values.
#[derive(Debug, Clone)]
pub struct HistogramVec {
    series: Arc<[Histogram]>,
}

impl HistogramVec {
    /// The series of the `index`-th label value given at registration.
    ///
    /// # Panics
    /// When `index` is outside the closed set.
    #[must_use]
    pub fn at(&self, index: usize) -> &Histogram {
        self.series.get(index).expect("the index belongs to the closed label set")
    }
}

impl Metrics {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a counter. `name` ends in `_total`.
    ///
    /// # Panics
    /// When the name is not valid or taken: a mistake of the program.
    #[must_use]
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::with_opts(Opts::new(name, help)).expect("metric names are valid"))
    }

    /// Registers a gauge.
    ///
    /// # Panics
    /// When the name is not valid or taken.
    #[must_use]
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::with_opts(Opts::new(name, help)).expect("metric names are valid"))
    }

    /// Registers a histogram with these upper bounds (ascending; see [`LATENCY_BUCKETS_S`]).
    ///
    /// # Panics
    /// When the name is not valid or taken, or the bounds do not ascend.
    #[must_use]
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(Histogram::with_opts(opts).expect("metric names are valid and bounds ascend"))
    }

    /// Registers one counter per value of `label`; all series exist from the start.
    ///
    /// # Panics
    /// When the name is not valid or taken.
    #[must_use]
    pub fn counter_vec(&self, name: &str, help: &str, label: &str, values: &[&str]) -> CounterVec {
        let vec = self.register(IntCounterVec::new(Opts::new(name, help), &[label]).expect("metric names are valid"));
        CounterVec { series: values.iter().map(|v| vec.with_label_values(&[v])).collect() }
    }

    /// Registers one gauge per value of `label`; all series exist from the start.
    ///
    /// # Panics
    /// When the name is not valid or taken.
    #[must_use]
    pub fn gauge_vec(&self, name: &str, help: &str, label: &str, values: &[&str]) -> GaugeVec {
        let vec = self.register(IntGaugeVec::new(Opts::new(name, help), &[label]).expect("metric names are valid"));
        GaugeVec { series: values.iter().map(|v| vec.with_label_values(&[v])).collect() }
    }

    /// Registers one counter per pair of values; all series exist from the start.
    ///
    /// # Panics
    /// When the name is not valid or taken.
    #[must_use]
    pub fn counter_grid(&self, name: &str, help: &str, rows: Label<'_>, columns: Label<'_>) -> CounterGrid {
        let vec = self.register(IntCounterVec::new(Opts::new(name, help), &[rows.0, columns.0]).expect("metric names are valid"));
        Grid::new(rows, columns, |values| vec.with_label_values(values))
    }

    /// Registers one histogram per value of `label`; all series exist from the start.
    ///
    /// # Panics
    /// When the name is not valid or taken, or the bounds do not ascend.
    #[must_use]
    pub fn histogram_vec(&self, name: &str, help: &str, buckets: &[f64], label: Label<'_>) -> HistogramVec {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let vec = self.register(Histograms::new(opts, &[label.0]).expect("metric names are valid and bounds ascend"));
        HistogramVec { series: label.1.iter().map(|v| vec.with_label_values(&[v])).collect() }
    }

    /// Registers one histogram per pair of values; all series exist from the start.
    ///
    /// # Panics
    /// When the name is not valid or taken, or the bounds do not ascend.
    #[must_use]
    pub fn histogram_grid(&self, name: &str, help: &str, buckets: &[f64], rows: Label<'_>, columns: Label<'_>) -> HistogramGrid {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let vec = self.register(Histograms::new(opts, &[rows.0, columns.0]).expect("metric names are valid and bounds ascend"));
        Grid::new(rows, columns, |values| vec.with_label_values(values))
    }

    /// All metrics in the Prometheus text format, with those of the process (`process_cpu_seconds_total`, ...) read now.
    #[must_use]
    pub fn gather(&self) -> String {
        let mut page = Vec::new();
        if let Err(err) = TextEncoder::new().encode(&self.registry.gather(), &mut page) {
            tracing::error!(%err, "metrics page is incomplete");
        }
        let mut page = String::from_utf8_lossy(&page).into_owned();
        process::append(&mut page);
        page
    }

    fn register<C: Collector + Clone + 'static>(&self, collector: C) -> C {
        self.registry.register(Box::new(collector.clone())).expect("each metric is registered once");
        collector
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_has_all_series_and_the_process() {
        let metrics = Metrics::new();
        metrics.counter("wk_test_events_total", "Events.").inc_by(3);
        metrics.gauge("wk_test_depth", "Depth.").set(7);
        metrics.histogram("wk_test_seconds", "Time.", LATENCY_BUCKETS_S).observe(0.003);
        let drops = metrics.counter_vec("wk_test_drops_total", "Drops.", "reason", &["full", "late"]);
        drops.at(1).inc();
        metrics.gauge_vec("wk_test_conns", "Connections.", "kind", &["tcp", "ws"]).at(0).set(2);
        let ends = metrics.counter_grid("wk_test_ends_total", "Ends.", ("daemon", &["a", "b"]), ("cause", &["x", "y", "z"]));
        ends.at(1, 0).inc_by(4);
        metrics.histogram_vec("wk_test_stop_seconds", "Time.", LATENCY_BUCKETS_S, ("daemon", &["a", "b"])).at(1).observe(0.1);
        let start = metrics.histogram_grid("wk_test_start_seconds", "Time.", &[1.0], ("daemon", &["a", "b"]), ("phase", &["x", "y"]));
        start.at(1, 1).observe(2.0);
        let page = metrics.gather();
        for line in [
            "wk_test_ends_total{cause=\"x\",daemon=\"b\"} 4",
            "wk_test_ends_total{cause=\"z\",daemon=\"a\"} 0",
            "wk_test_stop_seconds_count{daemon=\"b\"} 1",
            "wk_test_start_seconds_count{daemon=\"b\",phase=\"y\"} 1",
            "wk_test_events_total 3",
            "wk_test_depth 7",
            "wk_test_drops_total{reason=\"full\"} 0",
            "wk_test_drops_total{reason=\"late\"} 1",
            "wk_test_conns{kind=\"tcp\"} 2",
            "wk_test_seconds_count 1",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is missing in:\n{page}");
        }
        assert!(page.contains("\nprocess_cpu_seconds_total "), "{page}");
        assert!(page.contains("\nprocess_resident_memory_bytes "), "{page}");
        assert!(page.contains("\nprocess_open_fds "), "{page}");
    }
}
