//! One metrics page of all daemons of the node.
//!
//! Each daemon's page is asked for over its admin socket, all at once. Samples get the labels `daemon` and `slot`, so that the same family of
//! several processes stays apart, and each family's HELP and TYPE lines come once. No label names the node: the scraper adds it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use futures_util::future::join_all;
use tokio::time::timeout;
use wk_proto::lifecycle::v1::MetricsRequest;
use wk_proto::lifecycle::v1::admin_client::AdminClient;
use wk_rpc::limits::MESSAGE_BYTES_MAX;
use wk_rpc::{Row, Table, dial};
use wk_types::InstanceName;

use crate::limits::GATHER_DEADLINE;

/// The pages of all other instances in the table; those that did not answer in time are missing. Second: how many those are.
pub async fn pages(table: &Table, me: InstanceName) -> (Vec<(InstanceName, String)>, u64) {
    let rows = table.instances().filter(|row| row.name != me && row.dialable() && !row.health_socket.as_os_str().is_empty());
    let asked = rows.cloned().map(|row| async move {
        let page = timeout(GATHER_DEADLINE, page(&row)).await;
        match page {
            Ok(Ok(text)) => Ok((row.name, text)),
            Ok(Err(err)) => Err((row.name, err)),
            Err(_) => Err((row.name, "no answer in time".to_owned())),
        }
    });
    let (mut found, mut failed) = (Vec::new(), 0);
    for answer in join_all(asked).await {
        match answer {
            Ok(page) => found.push(page),
            Err((instance, err)) => {
                failed += 1;
                tracing::warn!(%instance, err, "metrics are missing");
            }
        }
    }
    (found, failed)
}

async fn page(row: &Row) -> Result<String, String> {
    let channel = dial(&row.health_socket).await.map_err(|e| e.to_string())?;
    let mut client = AdminClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    Ok(client.metrics(MetricsRequest {}).await.map_err(|e| e.message().to_owned())?.into_inner().text)
}

/// Lines of one family.
#[derive(Default)]
struct Family {
    help: Option<String>,
    kind: Option<String>,
    samples: Vec<String>,
}

/// Merges pages into one valid page: families in the order of their names, samples in the order of the pages.
#[must_use]
pub fn merge(pages: &[(InstanceName, String)]) -> String {
    let mut families: BTreeMap<&str, Family> = BTreeMap::new();
    for (instance, page) in pages {
        let labels = format!("daemon=\"{}\",slot=\"{}\"", instance.daemon, instance.slot);
        // Samples of a histogram (`x_bucket`) belong to the family that the last TYPE line named.
        let mut current = "";
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let name = rest.split(' ').next().unwrap_or_default();
                families.entry(name).or_default().help.get_or_insert_with(|| line.to_owned());
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                current = rest.split(' ').next().unwrap_or_default();
                families.entry(current).or_default().kind.get_or_insert_with(|| line.to_owned());
            } else if !line.is_empty() && !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap_or_default();
                let family = if !current.is_empty() && name.starts_with(current) { current } else { name };
                families.entry(family).or_default().samples.push(labelled(line, name, &labels));
            }
        }
    }
    let mut out = String::new();
    for family in families.values().filter(|family| !family.samples.is_empty()) {
        for line in family.help.iter().chain(&family.kind).chain(&family.samples) {
            writeln!(out, "{line}").expect("writing to a string cannot fail");
        }
    }
    out
}

/// The sample with `labels` in front of its own.
fn labelled(line: &str, name: &str, labels: &str) -> String {
    let rest = line.get(name.len()..).unwrap_or_default();
    match rest.strip_prefix('{') {
        Some(own) if own.starts_with('}') => format!("{name}{{{labels}{own}"),
        Some(own) => format!("{name}{{{labels},{own}"),
        None => format!("{name}{{{labels}}}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_of_several_daemons_are_one_page() {
        let page = "# HELP a_total A.\n# TYPE a_total counter\na_total 1\n\
                    # HELP h H.\n# TYPE h histogram\nh_bucket{le=\"1\"} 0\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n";
        let user = ("worker.user@0".parse().unwrap(), page.to_owned());
        let push = ("worker.push@1".parse().unwrap(), "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"y\"} 4\n".to_owned());
        assert_eq!(
            merge(&[user, push]),
            "# HELP a_total A.\n# TYPE a_total counter\n\
             a_total{daemon=\"worker.user\",slot=\"0\"} 1\n\
             a_total{daemon=\"worker.push\",slot=\"1\",x=\"y\"} 4\n\
             # HELP h H.\n# TYPE h histogram\n\
             h_bucket{daemon=\"worker.user\",slot=\"0\",le=\"1\"} 0\n\
             h_bucket{daemon=\"worker.user\",slot=\"0\",le=\"+Inf\"} 2\n\
             h_sum{daemon=\"worker.user\",slot=\"0\"} 3\n\
             h_count{daemon=\"worker.user\",slot=\"0\"} 2\n"
        );
    }

    #[test]
    fn a_page_of_our_own_registry_survives() {
        let metrics = wk_telemetry::Metrics::new();
        let api = crate::metrics::ApiMetrics::new(&metrics);
        api.answered(crate::metrics::Class::Ok);
        let merged = merge(&[("api@0".parse().unwrap(), metrics.gather())]);
        assert!(merged.contains("wk_api_requests_total{daemon=\"api\",slot=\"0\",class=\"ok\"} 1\n"), "{merged}");
        let types = merged.lines().filter(|l| l.starts_with("# TYPE wk_api_request_seconds ")).count();
        assert_eq!(types, 1);
        for line in merged.lines().filter(|l| !l.starts_with('#')) {
            assert!(line.contains("{daemon=\"api\",slot=\"0\""), "{line}");
        }
    }
}
