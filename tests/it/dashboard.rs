//! The dashboard as a user sees it, in headless Chromium. Pictures of it are kept in `tests/.work/pictures`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bolt_wire::Version;
use serde_json::Value;

use crate::support::browser::Browser;
use crate::support::message::*;
use crate::support::neo4j::{Neo4j, skip};
use crate::support::raw_client::Client;
use crate::support::scripted::Peer;
use crate::support::sidebolt::Sidebolt;

const V: Version = Version::V5_8;
/// Fingerprints in the table, beside that of the load.
const TEXTS: usize = 999;

/// A browser of this test's own, or a line that names the test as skipped.
async fn browser(test: &str) -> Option<Browser> {
    let browser = tokio::task::spawn_blocking(Browser::start).await.expect("a browser that starts");
    if browser.is_none() {
        skip(test, "needs a browser: install the Debian package chromium-headless-shell");
    }
    browser
}

/// Works with the browser, which waits by blocking.
async fn with(mut browser: Browser, work: impl FnOnce(&mut Browser) + Send + 'static) -> Browser {
    let done = tokio::task::spawn_blocking(move || {
        work(&mut browser);
        browser
    });
    done.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// The names of all properties that differ in lightness by less than WCAG's 4.5 from what they stand on.
const FAINT: &str = "(() => {
  const light = text => { const c = text.match(/[\\d.]+/g).slice(0, 3).map(v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]; };
  const card = light(getComputedStyle(document.querySelector('.card')).backgroundColor);
  const faint = [];
  for (const selector of ['body', '.dim', '.ok', 'dt', 'td', 'th button', '[role=tab][aria-selected=true]']) {
    const e = document.querySelector(selector); if (!e) { faint.push(selector + ' is missing'); continue; }
    const own = light(getComputedStyle(e).color), ratio = (Math.max(own, card) + 0.05) / (Math.min(own, card) + 0.05);
    if (ratio < 4.5) faint.push(`${selector} ${ratio.toFixed(2)}`);
  }
  return faint;
})()";

/// Goes on with Tab until an expression about the focused element `a` holds.
fn tab_to(browser: &mut Browser, wanted: &str) {
    for _ in 0..60 {
        browser.key("Tab");
        if browser.eval(&format!("(a => Boolean({wanted}))(document.activeElement)")) == true {
            return;
        }
    }
    let at = browser.eval("document.activeElement.outerHTML.slice(0, 200)");
    panic!("the keyboard does not reach {wanted}; it is at {at}");
}

fn rows(browser: &mut Browser) -> Value {
    browser.eval("document.querySelectorAll('tbody tr').length")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_thousand_queries_live_by_keyboard_light_and_dark() {
    let Some(browser) = browser("dashboard::a_thousand_queries_live_by_keyboard_light_and_dark").await else {
        return;
    };
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, |config| {
        config.sight.max_queries = 2 * TEXTS;
        config.sight.slow_threshold = std::time::Duration::ZERO;
    })
    .await;
    let mut client = Client::login(sidebolt.address, V, "user", "password").await;
    for part in (0..TEXTS).collect::<Vec<_>>().chunks(50) {
        let texts = part.iter().flat_map(|nth| [run(&format!("MATCH (n:Label{nth}) RETURN n")), pull_all()]);
        client.ask_all(&texts.collect::<Vec<_>>()).await;
    }
    // A load that goes on while the page is looked at.
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            while !stop.load(Ordering::Relaxed) {
                client.query("ok | sleep 5, rows 3").await.unwrap();
            }
        }
    });
    let url = format!("http://{}/", sidebolt.admin());
    let browser = with(browser, move |browser| {
        browser.size(1280, 1000);
        browser.prefer("light");
        browser.open(&url);
        browser.until("document.querySelector('#state')?.textContent === 'ready'");
        browser.until(&format!("document.querySelector('#count').textContent === '{0} of {0}'", TEXTS + 1));
        assert_eq!(rows(browser), TEXTS + 1);

        // Numbers move by themselves.
        let tile = |name: &str| {
            format!("[...document.querySelectorAll('.tile')].find(t => t.lastChild.textContent === '{name}')?.firstChild.textContent")
        };
        browser.until(&format!("Number({}) > 0", tile("requests / s")));
        let calls = "Number([...document.querySelectorAll('tbody tr')].find(r => r.textContent.includes('sleep'))?.children[3].textContent)";
        let before = browser.eval(calls);
        browser.until(&format!("{calls} > {before}"));
        browser.until("document.querySelector('#charts path').getAttribute('d').split('L').length > 2");
        // A chart of a GPU, once there is one.
        let charts = "[...document.querySelectorAll('#charts h2')].map(h => h.textContent).join()";
        let before = browser.eval(charts).as_str().unwrap().to_owned();
        assert!(before.ends_with(",Disk, bytes / s") && !before.contains("GPU"), "{before}");
        let last = "document.querySelector('#charts').lastChild.querySelector('svg').getAttribute('aria-label')";
        let legend = browser.eval(&format!("samples = samples.map(s => ({{ ...s, gpu_memory: 8e9, gpu_memory_used: 3e9 }})); charts(); {last}"));
        assert_eq!(legend, "GPU memory, bytes: ■ there is 8.0 G   ■ in use 3.0 G   , at most 8.0 G");
        assert_eq!(browser.eval(charts), format!("{before},GPU memory, bytes"));
        assert_eq!(browser.eval("document.querySelector('#charts').lastChild.querySelectorAll('path').length"), 2);
        let panels = browser.eval("[...document.querySelectorAll('#panels h2')].map(h => h.textContent).join()");
        assert_eq!(panels, "Circuit breakers,Limits,Group commit,Cache");
        browser.until("document.querySelector('#panels').textContent.includes('closed for')");

        // Sorted by a column, filtered, other tables: all without a mouse.
        tab_to(browser, "a.getAttribute('role') === 'tab'");
        tab_to(browser, "a.id === 'filter'");
        browser.text("label99");
        browser.until("document.querySelector('#count').textContent.startsWith('10 of ')");
        assert_eq!(rows(browser), 10);
        browser.eval("document.querySelector('#filter').select()");
        browser.text(" ");
        browser.eval("{ const f = document.querySelector('#filter'); f.value = ''; f.dispatchEvent(new Event('input')); }");
        tab_to(browser, "a.dataset.key === 'calls'");
        browser.key("Enter");
        browser.until("document.querySelector('th:nth-child(4)').getAttribute('aria-sort') === 'descending'");
        browser.until("document.querySelector('tbody tr').textContent.includes('sleep')");
        assert_eq!(browser.eval("document.activeElement.dataset.key"), "calls", "the focus stays");
        browser.key("Enter");
        browser.until("document.querySelector('th:nth-child(4)').getAttribute('aria-sort') === 'ascending'");
        browser.picture("dashboard-light");
        assert_eq!(browser.eval(FAINT), serde_json::json!([]), "light");

        browser.eval("document.querySelector('[role=tab]').focus()");
        for name in ["Slow", "Baselines", "Clients"] {
            browser.key("ArrowRight");
            assert_eq!(browser.eval("document.activeElement.textContent"), name);
            browser.until("document.activeElement.getAttribute('aria-selected') === 'true'");
        }
        browser.until("document.querySelector('tbody').textContent.includes('sidebolt-')");
        for name in ["Batches", "Cache", "Limits", "Breakers"] {
            browser.key("ArrowRight");
            assert_eq!(browser.eval("document.activeElement.textContent"), name);
        }
        browser.until("document.querySelector('tbody').textContent.includes('closed')");

        // Dark, narrow, and the choice of the user over that of the system.
        browser.prefer("dark");
        let background = "getComputedStyle(document.body).backgroundColor";
        assert_eq!(browser.eval(background), "rgb(18, 22, 28)");
        assert_eq!(browser.eval(FAINT), serde_json::json!([]), "dark");
        browser.picture("dashboard-dark");
        browser.eval("document.querySelector('#theme').click()");
        assert_eq!(browser.eval(background), "rgb(246, 247, 249)");
        browser.size(390, 844);
        let overflow = browser.eval("document.documentElement.scrollWidth - innerWidth");
        assert_eq!(overflow, 0, "nothing sticks out on a small screen");
        browser.picture("dashboard-small");
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    load.await.unwrap();
    assert_eq!(browser.errors, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_slow_query_is_shown_with_its_plan_and_advice() {
    const TEST: &str = "dashboard::a_slow_query_is_shown_with_its_plan_and_advice";
    let Some(neo4j) = Neo4j::all(TEST).into_iter().next() else { return };
    let Some(browser) = browser(TEST).await else { return };
    let sidebolt = Sidebolt::start(&neo4j.address, |config| {
        config.sight.explain = true;
        config.sight.slow_threshold = std::time::Duration::from_nanos(1);
        config.cache.enabled = false;
    })
    .await;
    neo4j.admin("UNWIND range(1, 500) AS i CREATE (:ShownSlow {name: 'n' + i})").await;
    let mut client = Client::login(sidebolt.address, V, Neo4j::USER, &neo4j.password).await;
    client.query("MATCH (n:ShownSlow) WHERE n.name = 'secret42' RETURN n").await.unwrap();
    let url = format!("http://{}/", sidebolt.admin());
    let browser = with(browser, move |browser| {
        browser.size(1280, 1000);
        browser.open(&url);
        browser.until("document.querySelector('#state')?.textContent === 'ready'");
        browser.eval("document.querySelector('[role=tab]').focus()");
        browser.key("ArrowRight");
        browser.until("document.querySelector('tbody').textContent.includes('CREATE INDEX IF NOT EXISTS FOR (n:ShownSlow) ON (n.name)')");
        browser.until("Boolean(document.querySelector('tbody summary'))");
        tab_to(browser, "a.tagName === 'SUMMARY'");
        browser.key("Enter");
        browser.until("document.querySelector('tbody details[open] pre')?.textContent.includes('NodeByLabelScan') === true");
        browser.picture("dashboard-slow");
        assert_eq!(browser.eval("document.body.innerText.includes('secret42')"), false);
    })
    .await;
    assert_eq!(browser.errors, Vec::<String>::new());
    neo4j.admin("MATCH (n:ShownSlow) DELETE n").await;
}
