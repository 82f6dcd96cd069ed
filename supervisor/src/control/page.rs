//! One metrics page for the supervisor and all daemons.

use super::Shared;
use crate::limits::METRICS_TIMEOUT;
use crate::metrics::merge;
use crate::table::{InstanceView, State};

impl Shared {
    pub(super) async fn metrics_page(&self) -> String {
        let snapshot = self.snapshot.borrow().clone();
        let asks = snapshot.instances.iter().filter(|v| v.pid != 0).map(|v| async {
            let (health, _) = self.config.sockets(v.name, v.generation);
            let page = crate::calls::metrics(wk_rpc::dial_lazy(health), METRICS_TIMEOUT).await;
            page.ok().map(|text| (v.name.to_string(), text))
        });
        let mut pages: Vec<(String, String)> = vec![("supervisor".into(), self.counters.text())];
        pages.extend(snapshot.instances.iter().map(|v| (v.name.to_string(), self.instance_metrics(v))));
        pages.extend(futures_util::future::join_all(asks).await.into_iter().flatten());
        merge(&pages)
    }

    fn instance_metrics(&self, view: &InstanceView) -> String {
        let used = self.sampler.of(view.pid, view.incarnation, &self.config.exe(view.name.daemon)).usage;
        let ready = u8::from(view.state == State::Ready);
        let gauge = |name: &str, help: &str, value: String| format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n");
        let mut page = gauge("wk_supervisor_instance_ready", "1 when the instance is Ready.", ready.to_string());
        page += &gauge("wk_supervisor_instance_restarts", "Crashes since the supervisor started.", view.restarts.to_string());
        let looping = u8::from(view.crash_loop).to_string();
        page += &gauge("wk_supervisor_instance_crash_loop", "1 while the instance is in a crash loop.", looping);
        let pause = view.next_attempt.unwrap_or_default().as_secs_f64();
        page += &gauge("wk_supervisor_backoff_seconds", "Until the next attempt of an instance that crashed.", format!("{pause:.3}"));
        page += "# HELP wk_supervisor_instance_state 1 for the state that the instance is in.\n# TYPE wk_supervisor_instance_state gauge\n";
        for state in State::ALL {
            page += &format!("wk_supervisor_instance_state{{state=\"{}\"}} {}\n", state.name(), u8::from(state == view.state));
        }
        if view.pid != 0 {
            let seconds = format!("{}.{:03}", used.cpu_ms / 1000, used.cpu_ms % 1000);
            page += "# HELP wk_supervisor_instance_cpu_seconds_total User and system time of this generation.\n";
            page +=
                &format!("# TYPE wk_supervisor_instance_cpu_seconds_total counter\nwk_supervisor_instance_cpu_seconds_total {seconds}\n");
            page += &gauge("wk_supervisor_instance_resident_bytes", "Resident memory.", used.memory_bytes.to_string());
            page += &gauge("wk_supervisor_instance_open_fds", "Open descriptors.", used.open_fds.to_string());
        }
        page
    }
}
