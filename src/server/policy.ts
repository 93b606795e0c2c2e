/** The policy of a running sidecar: where it comes from, how it starts, and what is told of it. */

import type { Registry } from "prom-client";
import { CurrentPolicy } from "../bundle/current.ts";
import type { PolicyLoader } from "../bundle/loader.ts";
import { readyPolicy } from "../bundle/ready-policy.ts";
import { shippedNetworks } from "../bundle/shipped-networks.ts";
import { FileSource } from "../bundle/sync/file-source.ts";
import { type KeeperEvents, PolicyKeeper } from "../bundle/sync/keeper.ts";
import { type PolicySource, type SidecarReport, systemClock } from "../bundle/sync/source.ts";
import { PolicyState } from "../bundle/sync/state.ts";
import type { BundleFacts, PolicyFreshness, Trust } from "../model/bundle.ts";
import { OperatingError } from "../model/errors.ts";
import type { Policy } from "../model/policy.ts";
import { SECOND_MS } from "../model/units.ts";
import { errorFields, type Logger } from "../telemetry/log.ts";
import { type LoadSource, PolicyMetrics } from "../telemetry/policy-metrics.ts";
import type { PolicyPlace, ServeConfig } from "./config.ts";
import { denying, effective } from "./effective-policy.ts";
import type { FleetOrders } from "./fleet-orders.ts";
import type { FleetWorkloads } from "./fleet-workloads.ts";
import type { startTrust } from "./policy-trust.ts";
import { VERSION } from "./version.ts";

/** How often a state folder that did not take the last good bundle is tried again. */
const STATE_RETRY_MS = 30 * SECOND_MS;

export interface PolicyStatus {
  /** As the policy states itself, before `mode` of the settings. */
  readonly policy: Policy;
  readonly bundle: BundleFacts | undefined;
  readonly freshness: PolicyFreshness;
  readonly confirmedAtMs: number | undefined;
  readonly loadedAtMs: number;
  /** Why the newest candidate was refused, or why the source does not answer; empty when all is well. */
  readonly problems: readonly string[];
  readonly problemCode: string | undefined;
  /** Where policy comes from; never holds a secret. */
  readonly source: string;
  /** In a few words. */
  readonly summary: string;
  /** Whether the settings let this be called ready. */
  readonly ready: boolean;
}

export interface RunningPolicy {
  /** What the next request is judged by. */
  get(): Policy;
  freshness(): PolicyFreshness;
  /** Name and revision of the bundle that a policy revision stands for; `undefined`: unsigned, or long gone. */
  bundleOf(policyRevision: string): BundleFacts | undefined;
  /** The policy in shadow, if one is loaded: the same object until another takes its place. */
  candidate(): Policy | undefined;
  status(): PolicyStatus;
  close(): Promise<void>;
}

export interface PolicyOptions {
  readonly config: ServeConfig;
  readonly sidecarId: string;
  /** Closed by whoever made it. */
  readonly loader: PolicyLoader;
  readonly log: Logger;
  readonly registry: Registry;
  /** Told after another policy has taken its place. */
  readonly onChange: (policy: Policy) => void;
  /** What the control plane is told besides. */
  readonly report: () => Pick<SidecarReport, "checks" | "decisions" | "scoreBands" | "riskEvents">;
  /** Hears what the control plane orders. */
  readonly orders: FleetOrders;
  /** Hears what the control plane tells of pods. */
  readonly workloads: FleetWorkloads;
}

/**
 * Starts with a policy in force, or not at all.
 * @throws {OperatingError} when no policy can be put in force and the settings want one
 */
export async function startPolicy(options: PolicyOptions): Promise<RunningPolicy> {
  const running = new Running(options);
  try {
    await running.start();
    return running;
  } catch (error) {
    await running.close();
    throw error;
  }
}

class Running implements RunningPolicy {
  private readonly options: PolicyOptions;
  private readonly metrics: PolicyMetrics;
  private readonly closers: (() => Promise<void> | void)[] = [];
  private readonly current: CurrentPolicy;
  /** With `policy-on-expiry: deny`: what counts once the bundle in force is past its time. */
  private expired: Policy;
  /** With `locks-on-stale: strict`: what counts while nobody knows which locks there should be. */
  private unlocked: Policy;
  private stated: Policy;
  private loadedAtMs = Date.now();
  /** Of the policy in force and the one before it: verdicts of both are still being logged around a swap. */
  private bundles: readonly (BundleFacts & { readonly policyRevision: string })[] = [];
  private keeper: PolicyKeeper | undefined;
  private source = "shipped";
  private shadow: Policy | undefined;

  constructor(options: PolicyOptions) {
    this.options = options;
    this.metrics = new PolicyMetrics(options.registry);
    this.stated = readyPolicy(shippedNetworks());
    this.current = new CurrentPolicy(effective(this.stated, options.config));
    this.expired = this.current.get();
    this.unlocked = this.current.get();
    this.prepareDenials();
    this.metrics.show(options.registry, () => {
      const { loadedAtMs, bundle, confirmedAtMs, freshness } = this.status();
      return { loadedAtMs, revision: bundle?.revision, expiresAtMs: bundle?.expiresAtMs, confirmedAtMs, freshness };
    });
  }

  get(): Policy {
    if (this.options.orders.refuses()) return this.unlocked;
    const denies = this.options.config.policyOnExpiry === "deny" && this.keeper?.freshness() === "expired";
    return denies ? this.expired : this.current.get();
  }

  freshness(): PolicyFreshness {
    return this.keeper?.freshness() ?? "fresh";
  }

  bundleOf(policyRevision: string): BundleFacts | undefined {
    return this.bundles.find((bundle) => bundle.policyRevision === policyRevision);
  }

  candidate(): Policy | undefined {
    return this.shadow;
  }

  status(): PolicyStatus {
    const kept = this.keeper?.status();
    const freshness = this.freshness();
    const { policyOnStale, policyOnExpiry } = this.options.config;
    const isMissing = this.keeper?.isInForce === false;
    const isKept =
      (freshness === "stale" && policyOnStale === "unready") || (freshness === "expired" && policyOnExpiry !== "keep");
    return {
      policy: this.stated,
      bundle: kept?.bundle,
      freshness,
      confirmedAtMs: kept?.confirmedAtMs,
      loadedAtMs: this.loadedAtMs,
      problems: kept?.refusal?.problems ?? (kept?.failure === undefined ? [] : [kept.failure.message]),
      problemCode: kept?.refusal?.error.code ?? kept?.failure?.code,
      source: this.source,
      summary: isMissing ? "none yet, the shipped one is in force" : summaryOf(kept),
      ready: !isMissing && !isKept,
    };
  }

  async close(): Promise<void> {
    for (const close of this.closers.splice(0).reverse()) await close();
  }

  async start(): Promise<void> {
    const { config, log } = this.options;
    const state = config.stateDir === undefined ? undefined : new PolicyState(config.stateDir);
    const kept = await this.readState(state);
    const trust =
      config.bundleKeys === undefined ? undefined : await trustIn(config.bundleKeys, kept.trust, state, log);
    if (config.policy !== undefined || config.control !== undefined) {
      await this.follow(trust, state, kept.bundle);
    } else if (config.bundleKeys !== undefined) {
      log.warn({ event: "policy.keys.unused" }, "bundle-keys is set, but no policy is: the shipped one is in force");
    }
    if (config.shadow !== undefined) await this.followShadow(config.shadow, trust);
  }

  private prepareDenials(): void {
    const { policyOnExpiry, locksOnStale, control } = this.options.config;
    if (policyOnExpiry === "deny") this.expired = denying(this.current.get(), "policy-expired");
    if (locksOnStale === "strict" && control !== undefined) this.unlocked = denying(this.current.get(), "locks-stale");
  }

  private async readState(state: PolicyState | undefined) {
    const { config, log } = this.options;
    const nothing = { bundle: undefined, trust: undefined };
    // Without keys nothing was kept, and nothing that lies there is believed.
    if (state === undefined || config.bundleKeys === undefined) return nothing;
    try {
      return await state.read(config.policyBytesMax);
    } catch (error) {
      // Starts with what the source brings.
      log.error({ event: "policy.state.unusable", ...errorFields(error) }, "no last good policy to start with");
      return nothing;
    }
  }

  private async follow(trust: Trust | undefined, state: PolicyState | undefined, lastGood: Uint8Array | undefined) {
    const { config } = this.options;
    let keeper: PolicyKeeper;
    const source = await this.sourceOf(() => keeper.held());
    this.source = source.label;
    keeper = this.keeperFor(source, trust, trust === undefined ? undefined : state, config.policyStaleAfterMs);
    this.keeper = keeper;
    this.closers.push(() => keeper.close());
    if (state !== undefined && lastGood !== undefined) await keeper.restore(lastGood, state.bundlePath);
    const saved = keeper.status().refusal?.error;
    const heard = keeper.heard();
    this.closers.push(() => source.close());
    source.start(keeper);
    const retry = setInterval(() => void keeper.saveAgain(), STATE_RETRY_MS);
    retry.unref();
    this.closers.push(() => clearInterval(retry));
    // What is on disk answers at once, so that a start is the same every time.
    if (source.kind === "file") await heard;
    await this.awaitFirst(keeper, source, saved);
  }

  /** @throws {OperatingError} when none comes in time and `policy-missing` is `fail` */
  private async awaitFirst(
    keeper: PolicyKeeper,
    source: PolicySource,
    saved: OperatingError | undefined,
  ): Promise<void> {
    const { config, log } = this.options;
    const isYaml = source.kind === "file" && config.bundleKeys === undefined;
    const untilMs = performance.now() + (isYaml ? 0 : config.policyWaitMs);
    while (!keeper.isInForce) {
      const leftMs = untilMs - performance.now();
      if (leftMs <= 0) break;
      await Promise.race([keeper.heard(), pause(leftMs)]);
    }
    if (keeper.isInForce) return;
    const { refusal, failure } = keeper.status();
    const error = (refusal?.error === saved ? failure : refusal?.error) ?? saved;
    const lastGood = saved === undefined ? "no last good one" : `the saved copy cannot be used (${saved.message})`;
    const ofSource = error === saved ? `${source.label} did not answer` : error?.message;
    if (config.policyMissing === "shipped" && !isYaml) {
      log.error(
        { event: "policy.missing", source: source.label, ...(error === undefined ? {} : errorFields(error)) },
        "the shipped policy is in force, and not ready, until the first one comes",
      );
      return;
    }
    if (isYaml && error !== undefined) throw error;
    throw new OperatingError(
      error?.code ?? "ERR_BUNDLE_UNREACHABLE",
      `no policy within ${config.policyWaitMs} ms (policy-wait), and ${lastGood}: ${ofSource ?? `${source.label} did not answer`}`,
      { cause: error },
    );
  }

  private async followShadow(place: PolicyPlace, trust: Trust | undefined): Promise<void> {
    const source = await this.sourceAt(place);
    // Its revisions are its own: a candidate may be older than what is in force.
    const own = trust === undefined ? undefined : { root: trust.root, accepted: undefined };
    const { log } = this.options;
    const keeper = new PolicyKeeper({
      ...this.keeping(source, own, undefined, undefined),
      events: {
        ...this.events(source.label, "shadow.policy"),
        inForce: ({ policy }) => {
          this.shadow = effective(policy, this.options.config);
          log.info(
            { event: "shadow.policy.replaced", policy: policy.name, revision: policy.revision },
            "new candidate",
          );
        },
      },
      meters: this.metrics.of("shadow"),
    });
    this.closers.push(
      () => keeper.close(),
      () => source.close(),
    );
    const heard = keeper.heard();
    source.start(keeper);
    if (source.kind === "file") await heard;
  }

  private keeperFor(
    source: PolicySource,
    trust: Trust | undefined,
    state: PolicyState | undefined,
    staleAfterMs: number | undefined,
  ): PolicyKeeper {
    const { log, config, onChange } = this.options;
    const meters = this.metrics.of(source.kind as LoadSource);
    return new PolicyKeeper({
      ...this.keeping(source, trust, state, staleAfterMs),
      bundleName: config.bundleName,
      meters,
      events: {
        ...this.events(source.label, "policy", state?.bundlePath),
        inForce: ({ policy, bundle }, from) => {
          this.stated = policy;
          this.current.replace(effective(policy, config));
          this.prepareDenials();
          this.loadedAtMs = Date.now();
          const newest = bundle === undefined ? [] : [{ ...bundle, policyRevision: policy.revision }];
          this.bundles = [...newest, ...this.bundles.slice(0, 1)];
          log.info(
            { event: "policy.replaced", policy: policy.name, revision: policy.revision, from },
            "new policy in force",
          );
          onChange(this.current.get());
        },
      },
    });
  }

  private keeping(
    { label }: PolicySource,
    trust: Trust | undefined,
    state: PolicyState | undefined,
    staleAfterMs: number | undefined,
  ) {
    return {
      loader: this.options.loader,
      label,
      trust,
      state,
      bytesMax: this.options.config.policyBytesMax,
      staleAfterMs,
      now: Date.now,
      monotonicMs: () => performance.now(),
    };
  }

  private events(label: string, about: "policy" | "shadow.policy", savedCopy?: string): Omit<KeeperEvents, "inForce"> {
    const { log } = this.options;
    return {
      refused: ({ error, problems }, from, stays) => {
        const none =
          from === savedCopy
            ? "the saved copy of the last good policy cannot be used: none until the source brings one"
            : "nothing to keep: no policy has been in force yet";
        log.error(
          { event: `${about}.refused`, code: error.code, from, problems },
          stays === "none" ? none : "kept the last good policy",
        );
      },
      settled: (from) =>
        log.info({ event: `${about}.settled`, from }, "what was refused is gone: the source has what is in force"),
      unreachable: (error, stays) =>
        log.warn(
          { event: `${about}.unreachable`, ...errorFields(error) },
          stays === "none" ? "no policy has been in force yet; asked again" : "the last good policy stays; asked again",
        ),
      recovered: () => log.info({ event: `${about}.reachable`, source: label }, "the source of policy answers again"),
      warned: (warning, from) => log.warn({ event: `${about}.warning`, from, warning }, "taken all the same"),
      unsaved: (error) =>
        log.error(
          { event: `${about}.unsaved`, ...errorFields(error) },
          "the new policy is in force, but a restart would begin with the one before; tried again",
        ),
      saved: () => log.info({ event: `${about}.saved` }, "the last good policy is on disk again"),
    };
  }

  /** What speaks over the network is loaded only where it is asked for. */
  private async sourceOf(held: () => Promise<Uint8Array | undefined>): Promise<PolicySource> {
    const { config, sidecarId, report } = this.options;
    if (config.policy !== undefined) return this.sourceAt(config.policy);
    if (config.control === undefined) throw new RangeError("neither policy nor control");
    const { controlSource } = await import("../bundle/sync/control-source.ts");
    return controlSource({
      ...config.control,
      sidecarId,
      labels: config.labels,
      version: VERSION,
      bytesMax: config.policyBytesMax,
      pollMs: config.policyPollMs,
      held,
      clock: systemClock,
      onOrders: this.options.orders,
      onWorkloads: this.options.workloads,
      report: () => {
        const { policy, bundle, freshness, problemCode, problems } = this.status();
        return {
          policyName: policy.name,
          policyRevision: policy.revision,
          bundle,
          freshness,
          mode: this.current.get().mode,
          problem: problemCode === undefined ? undefined : { code: problemCode, message: problems.join("\n") },
          ...report(),
        };
      },
    });
  }

  private async sourceAt(place: PolicyPlace): Promise<PolicySource> {
    const { config } = this.options;
    const bytesMax = config.policyBytesMax;
    if (place.kind === "path") return new FileSource(place.path, { bytesMax });
    const { UrlSource } = await import("../bundle/sync/url-source.ts");
    return new UrlSource({
      url: place.url,
      pollMs: config.policyPollMs,
      bytesMax,
      tokenFile: config.policyTokenFile,
      caFile: config.policyCaFile,
      clock: systemClock,
      monotonicMs: () => performance.now(),
    });
  }
}

/** Keys have schemas and texts of their own: what reads them is loaded only where some are configured. */
async function trustIn(...given: Parameters<typeof startTrust>): Promise<Trust> {
  return (await import("./policy-trust.ts")).startTrust(...given);
}

function summaryOf(kept: { readonly refusal: unknown; readonly failure: unknown } | undefined): string {
  if (kept?.refusal !== undefined) return "latest refused, last good in force";
  return kept?.failure === undefined ? "current" : "source does not answer, last good in force";
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
