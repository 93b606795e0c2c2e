/** The Grafana dashboard of the chart, panel by panel. */

interface Panel {
  readonly title: string;
  /** As Grafana calls it: `reqps`, `s`, `percentunit`, `short`, `bytes`. */
  readonly unit: string;
  readonly queries: readonly (readonly [expression: string, legend: string])[];
  /** Of 24 columns. */
  readonly width?: number;
  readonly kind?: "timeseries" | "stat" | "heatmap";
}

const SIDECARS = `namespace=~"$namespace"`;

const ROWS: readonly (readonly [title: string, panels: readonly Panel[]])[] = [
  [
    "Decisions",
    [
      {
        title: "Requests judged",
        unit: "reqps",
        kind: "stat",
        width: 6,
        queries: [[`sum(rate(sallyport_checks_total{${SIDECARS}}[$__rate_interval]))`, "judged"]],
      },
      {
        title: "Share that would be refused",
        unit: "percentunit",
        kind: "stat",
        width: 6,
        queries: [
          [
            `sum(rate(sallyport_checks_total{${SIDECARS},decision!="allow"}[$__rate_interval])) / sum(rate(sallyport_checks_total{${SIDECARS}}[$__rate_interval]))`,
            "decided",
          ],
        ],
      },
      {
        title: "Share refused",
        unit: "percentunit",
        kind: "stat",
        width: 6,
        queries: [
          [
            `sum(rate(sallyport_checks_total{${SIDECARS},enforced!="allow"}[$__rate_interval])) / sum(rate(sallyport_checks_total{${SIDECARS}}[$__rate_interval]))`,
            "carried out",
          ],
        ],
      },
      {
        title: "Check, 99th percentile",
        unit: "s",
        kind: "stat",
        width: 6,
        queries: [
          [
            `histogram_quantile(0.99, sum by (le) (rate(sallyport_check_duration_seconds_bucket{${SIDECARS}}[$__rate_interval])))`,
            "p99",
          ],
        ],
      },
      {
        title: "Decided",
        unit: "reqps",
        queries: [[`sum by (decision) (rate(sallyport_checks_total{${SIDECARS}}[$__rate_interval]))`, "{{decision}}"]],
      },
      {
        title: "Carried out",
        unit: "reqps",
        queries: [[`sum by (enforced) (rate(sallyport_checks_total{${SIDECARS}}[$__rate_interval]))`, "{{enforced}}"]],
      },
      {
        title: "Scores",
        unit: "short",
        kind: "heatmap",
        queries: [[`sum by (le) (increase(sallyport_score_points_bucket{${SIDECARS}}[$__rate_interval]))`, "{{le}}"]],
      },
      {
        title: "Refused, by namespace",
        unit: "reqps",
        queries: [
          [
            `sum by (namespace) (rate(sallyport_checks_total{${SIDECARS},enforced!="allow"}[$__rate_interval]))`,
            "{{namespace}}",
          ],
        ],
      },
      {
        title: "Challenges answered, streams ended",
        unit: "reqps",
        queries: [
          [`sum(rate(sallyport_challenges_answered_total{${SIDECARS}}[$__rate_interval]))`, "challenges answered"],
          [
            `sum by (because) (rate(sallyport_streams_ended_total{${SIDECARS}}[$__rate_interval]))`,
            "ended: {{because}}",
          ],
        ],
      },
      {
        title: "Candidate policy differs",
        unit: "reqps",
        queries: [
          [
            `sum by (active, candidate) (rate(sallyport_shadow_differences_total{${SIDECARS}}[$__rate_interval]))`,
            "{{active}} → {{candidate}}",
          ],
        ],
      },
    ],
  ],
  [
    "Cost",
    [
      {
        title: "Time of a check",
        unit: "s",
        queries: ["0.5", "0.9", "0.99"].map((share) => [
          `histogram_quantile(${share}, sum by (le) (rate(sallyport_check_duration_seconds_bucket{${SIDECARS}}[$__rate_interval])))`,
          `p${Number(share) * 100}`,
        ]),
      },
      {
        title: "Not judged in full, failed, refused connections",
        unit: "reqps",
        queries: [
          [`sum by (how) (rate(sallyport_shed_checks_total{${SIDECARS}}[$__rate_interval]))`, "shed: {{how}}"],
          [`sum(rate(sallyport_check_errors_total{${SIDECARS}}[$__rate_interval]))`, "failed"],
          [
            `sum by (reason) (rate(sallyport_connections_refused_total{${SIDECARS}}[$__rate_interval]))`,
            "refused: {{reason}}",
          ],
        ],
      },
      {
        title: "Processor time of a sidecar",
        unit: "short",
        queries: [
          [
            `topk(10, rate(sallyport_process_cpu_seconds_total{${SIDECARS}}[$__rate_interval]))`,
            "{{namespace}}/{{pod}}",
          ],
        ],
      },
      {
        title: "Memory of a sidecar",
        unit: "bytes",
        queries: [[`topk(10, sallyport_process_resident_memory_bytes{${SIDECARS}})`, "{{namespace}}/{{pod}}"]],
      },
      {
        title: "Remembered",
        unit: "short",
        queries: [
          [`sum(sallyport_principals{${SIDECARS}})`, "principals"],
          [`sum(sallyport_sessions{${SIDECARS}})`, "sessions"],
          [`max(sallyport_locks{${SIDECARS}})`, "locks"],
          [`sum(sallyport_open_streams{${SIDECARS}})`, "open streams"],
        ],
      },
      {
        title: "Outcomes learned from",
        unit: "reqps",
        queries: [[`sum by (stage) (rate(sallyport_outcomes_total{${SIDECARS}}[$__rate_interval]))`, "{{stage}}"]],
      },
    ],
  ],
  [
    "Policy",
    [
      {
        title: "Sidecars by freshness",
        unit: "short",
        queries: [[`sum by (state) (sallyport_policy_freshness{${SIDECARS}})`, "{{state}}"]],
      },
      {
        title: "Revision in force",
        unit: "short",
        queries: [[`count_values("revision", sallyport_policy_revision{${SIDECARS}})`, "revision {{revision}}"]],
      },
      {
        title: "Loads",
        unit: "short",
        queries: [
          [`sum by (result) (increase(sallyport_policy_loads_total{${SIDECARS}}[$__rate_interval]))`, "{{result}}"],
        ],
      },
      {
        title: "Time until the first bundle ends",
        unit: "s",
        queries: [[`min(sallyport_policy_expires_timestamp_seconds{${SIDECARS}} > 0) - time()`, "left"]],
      },
    ],
  ],
  [
    "Webhook and control plane",
    [
      {
        title: "Admission reviews",
        unit: "reqps",
        queries: [["sum by (result) (rate(sallyport_webhook_reviews_total[$__rate_interval]))", "{{result}}"]],
      },
      {
        title: "Time of a review, 99th percentile",
        unit: "s",
        queries: [
          [
            "histogram_quantile(0.99, sum by (le) (rate(sallyport_webhook_review_seconds_bucket[$__rate_interval])))",
            "p99",
          ],
        ],
      },
      {
        title: "Sidecars at the control plane",
        unit: "short",
        queries: [
          ["sum(sallyport_control_watching_sidecars)", "watching"],
          ["max(sallyport_control_reported_sidecars)", "reported"],
        ],
      },
      {
        title: "Changes, calls turned away, watches dropped",
        unit: "short",
        queries: [
          [
            "sum by (action, result) (increase(sallyport_control_changes_total[$__rate_interval]))",
            "{{action}}: {{result}}",
          ],
          ["sum by (reason) (increase(sallyport_control_refused_calls_total[$__rate_interval]))", "away: {{reason}}"],
          [
            "sum by (reason) (increase(sallyport_control_dropped_sidecars_total[$__rate_interval]))",
            "dropped: {{reason}}",
          ],
        ],
      },
    ],
  ],
];

const COLUMNS = 24;
const HEIGHT = 8;
const STAT_HEIGHT = 4;

/** A dashboard as Grafana imports it (schema version 39, Grafana 10 and newer). */
export function dashboard(): Record<string, unknown> {
  const panels: Record<string, unknown>[] = [];
  let y = 0;
  for (const [title, row] of ROWS) {
    panels.push({
      id: panels.length + 1,
      type: "row",
      title,
      collapsed: false,
      gridPos: { x: 0, y, w: COLUMNS, h: 1 },
      panels: [],
    });
    y += 1;
    let x = 0;
    let tallest = 0;
    for (const { title, unit, queries, width = COLUMNS / 2, kind = "timeseries" } of row) {
      if (x + width > COLUMNS) {
        x = 0;
        y += tallest;
        tallest = 0;
      }
      const h = kind === "stat" ? STAT_HEIGHT : HEIGHT;
      panels.push({
        id: panels.length + 1,
        type: kind,
        title,
        datasource: { type: "prometheus", uid: "$datasource" },
        gridPos: { x, y, w: width, h },
        fieldConfig: { defaults: { unit, min: 0 }, overrides: [] },
        ...(kind === "heatmap" ? { options: { calculate: false, yAxis: { unit } } } : {}),
        targets: queries.map(([expr, legendFormat], index) => ({
          refId: String.fromCharCode(65 + index),
          expr,
          legendFormat,
          ...(kind === "heatmap" ? { format: "heatmap" } : {}),
        })),
      });
      x += width;
      tallest = Math.max(tallest, h);
    }
    y += tallest;
  }
  return {
    uid: "sallyport",
    title: "Sallyport",
    tags: ["sallyport"],
    schemaVersion: 39,
    editable: true,
    time: { from: "now-6h", to: "now" },
    refresh: "1m",
    templating: {
      list: [
        { name: "datasource", type: "datasource", query: "prometheus", label: "Data source" },
        {
          name: "namespace",
          type: "query",
          label: "Namespace",
          datasource: { type: "prometheus", uid: "$datasource" },
          query: "label_values(sallyport_checks_total, namespace)",
          refresh: 2,
          multi: true,
          includeAll: true,
          allValue: ".*",
        },
      ],
    },
    panels,
  };
}
