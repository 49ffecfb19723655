// The files of examples/fleet, read as Docker Compose and Kubernetes read them: commands, flags, ports and variables are those of this
// project, and a real server takes the commands of Valkey.

import { spawn, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Redis } from "ioredis";
import { parseFleetUrl } from "@readme-moe/fleet";
import { describe, expect, onTestFinished, test } from "vitest";
import { parse, parseAllDocuments } from "yaml";
import { commandLine } from "../../packages/readme-moe/src/cli.ts";
import { workerMetrics } from "../../packages/readme-moe/src/commands/worker.ts";
import { describeWorker, EngineMeasure } from "../../packages/fleet/src/worker/describe-worker.ts";
import { newCounters } from "../../packages/fleet/src/worker/state.ts";
import { EXAMPLES } from "../support/examples.ts";
import { noServer, startValkey } from "../support/fleet/valkey.ts";
import { freePort } from "../support/free-port.ts";
import { until } from "../support/serving-process.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const ROOT = join(EXAMPLES, "..");
const VARIABLES = { MODEL: "./my-model", PASSWORD: "s3cret", API_KEYS: "sk-a,sk-b" };

/** Replaces variables as Compose does; one that has to be set and is not throws. */
function interpolate(text: string, variables: Readonly<Record<string, string>>): string {
  return text.replaceAll(/\$\$|\$\{(\w+)(?::\?([^}]*))?\}/g, (match, name?: string, message?: string) => {
    if (match === "$$") return "$";
    const value = variables[name ?? ""];
    if (!value && message !== undefined) throw new Error(`${name}: ${message}`);
    return value ?? "";
  });
}

interface Service {
  readonly image?: string;
  readonly build?: string;
  readonly entrypoint?: readonly string[];
  readonly command?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  readonly ports?: readonly string[];
  readonly volumes?: readonly string[];
  readonly depends_on?: readonly string[];
  readonly healthcheck?: { readonly test: readonly string[] };
  readonly stop_grace_period?: string;
}

function readCompose(variables: Readonly<Record<string, string>> = VARIABLES): Readonly<Record<string, Service>> {
  const text = interpolate(readFileSync(join(EXAMPLES, "fleet", "compose.yaml"), "utf8"), variables);
  return (parse(text, { merge: true }) as { readonly services: Record<string, Service> }).services;
}

/** Parses a command of ours with the real parser. @returns the command's name, its flags, and variables that it reads */
function parseCommand(line: readonly string[]): {
  readonly name: string;
  readonly flags: Readonly<Record<string, unknown>>;
  readonly variables: readonly string[];
} {
  const [node, program, name = "", ...rest] = line;
  expect([node, program]).toEqual(["node", "/app/packages/readme-moe/dist/main.js"]);
  const command = commandLine(AbortSignal.abort()).commands.find((one) => one.name() === name);
  if (!command) throw new Error(`Expected a command, got ${name}`);
  command.exitOverride().action(() => undefined);
  command.parse(rest, { from: "user" });
  expect(command.args).toEqual(["/model"]);
  return {
    name,
    flags: command.opts(),
    variables: command.options.flatMap(({ envVar }) => envVar ?? []),
  };
}

test("the image has the program that the files start", () => {
  const dockerfile = readFileSync(join(ROOT, "Dockerfile"), "utf8");
  expect(dockerfile).toMatch(/^COPY --from=build \/source \/app$/m);
  const manifest = JSON.parse(readFileSync(join(ROOT, "packages", "readme-moe", "package.json"), "utf8")) as object;
  expect(manifest).toMatchObject({ publishConfig: { bin: { "readme-moe": "./dist/main.js" } } });
});

describe("compose.yaml", () => {
  const services = readCompose();
  const own = Object.entries(services).filter(([, { build }]) => build !== undefined);
  const entries = Object.entries(services);

  test("has two fronts and three workers, whose commands, variables and ports exist", () => {
    const names: string[] = [];
    for (const [, { entrypoint = [], environment = {}, ports = [], volumes, healthcheck, build }] of own) {
      const { name, flags, variables } = parseCommand(entrypoint);
      names.push(name);
      expect(build).toBe("../..");
      expect(flags).toMatchObject({ host: "0.0.0.0" });
      expect(variables).toEqual(expect.arrayContaining(Object.keys(environment)));
      expect(volumes).toEqual(["./my-model:/model:ro"]);
      for (const port of ports) expect(port.split(":")[1]).toBe(String(flags["port"]));
      // A front has the image's own check.
      if (healthcheck) expect(healthcheck.test.join(" ")).toContain(`http://127.0.0.1:${String(flags["port"])}/readyz`);
    }
    expect(names.toSorted()).toEqual(["serve", "serve", "worker", "worker", "worker"]);
    const published = own.flatMap(([, { ports = [] }]) => ports);
    expect(new Set(published).size).toBe(2);
  });

  test("names services that exist, in the order of their dependencies and in the fleet's URL", () => {
    for (const [, { depends_on: needed = [] }] of entries)
      expect(Object.keys(services)).toEqual(expect.arrayContaining([...needed]));
    for (const [, { environment = {} }] of own) {
      const { hosts, primaryName, password } = parseFleetUrl(environment["README_MOE_FLEET"] ?? "");
      expect(hosts.map(({ host }) => host)).toEqual(["sentinel-1", "sentinel-2", "sentinel-3"]);
      for (const { host } of hosts)
        expect(services[host]?.command?.at(-1)).toContain(`sentinel monitor ${primaryName} `);
      expect(password).toBe(VARIABLES.PASSWORD);
    }
    for (const [, { image, build }] of entries)
      expect(build ?? image).toMatch(/^(\.\.\/\.\.|valkey\/valkey:\d+\.\d+)$/);
  });

  test("gives fronts keys, without which they do not serve other machines, and time to end their requests", () => {
    const fronts = own.filter(([, { entrypoint = [] }]) => entrypoint.includes("serve"));
    for (const [, { environment = {}, stop_grace_period: grace = "10s" }] of fronts) {
      expect(environment["README_MOE_API_KEYS"]).toBe(VARIABLES.API_KEYS);
      const { drainMs, noticeMs } = parseCommand(fronts[0]?.[1].entrypoint ?? []).flags as Record<string, number>;
      expect(1000 * Number.parseInt(grace, 10)).toBeGreaterThan((drainMs ?? 0) + (noticeMs ?? 0));
    }
    for (const name of Object.keys(VARIABLES)) {
      expect(() => readCompose({ ...VARIABLES, [name]: "" })).toThrow(name);
    }
  });

  test.skipIf(noServer !== undefined)(
    "starts servers with settings that they take (skipped without Valkey)",
    async () => {
      const argumentsOf = (name: string, port: number): string[] =>
        (services[name]?.command ?? [])
          .slice(1)
          .map((word) => (word === "valkey-1" ? "127.0.0.1" : word === "6379" ? String(port) : word));
      const password = VARIABLES.PASSWORD;
      const first = await startValkey({ password, args: argumentsOf("valkey-1", 0) });
      onTestFinished(() => first.stop());
      const second = await startValkey({ password, args: argumentsOf("valkey-2", first.port) });
      onTestFinished(() => second.stop());
      await until(async () => (await second.redis.info("replication")).includes("master_link_status:up"));
      const folder = await temporaryFolder();
      const port = await freePort();
      const [shell = "", flag = "", script = ""] = services["sentinel-1"]?.command ?? [];
      const here = script.replaceAll("/data/", `${folder}/`).replace("valkey-1 6379", `127.0.0.1 ${first.port}`).trim();
      if (spawnSync("valkey-sentinel", ["--version"]).status !== 0) return;
      const sentinel = spawn(shell, [flag, `${here} --port ${port}`], {
        env: { ...process.env, PASSWORD: password },
        stdio: "ignore",
      });
      const redis = new Redis({ port, host: "127.0.0.1", retryStrategy: () => 20 });
      redis.on("error", () => undefined);
      onTestFinished(() => {
        redis.disconnect();
        sentinel.kill("SIGKILL");
      });
      const replicas = await until(async () => {
        const found = (await redis.call("SENTINEL", "replicas", "fleet")) as string[][];
        return found.length > 0 && found;
      });
      expect(replicas[0]).toEqual(expect.arrayContaining(["127.0.0.1", String(second.port)]));
    },
  );
});

interface Manifest {
  readonly kind: string;
  readonly metadata: { readonly name: string };
  readonly spec: Readonly<Record<string, unknown>>;
}
interface Probe {
  readonly httpGet: { readonly path: string; readonly port: number };
}
interface Container {
  readonly command: readonly string[];
  readonly env: readonly {
    readonly name: string;
    readonly valueFrom: { readonly secretKeyRef: { readonly name: string; readonly key: string } };
  }[];
  readonly ports: readonly { readonly containerPort: number }[];
  readonly volumeMounts: readonly { readonly name: string; readonly mountPath: string }[];
  readonly startupProbe?: Probe;
  readonly readinessProbe: Probe;
  readonly livenessProbe: Probe;
  readonly resources: { readonly limits?: object; readonly requests?: object };
}
interface Deployment {
  readonly selector: { readonly matchLabels: Readonly<Record<string, string>> };
  readonly template: {
    readonly metadata: {
      readonly labels: Readonly<Record<string, string>>;
      readonly annotations?: Readonly<Record<string, string>>;
    };
    readonly spec: {
      readonly terminationGracePeriodSeconds: number;
      readonly volumes: readonly { readonly name: string }[];
      readonly containers: readonly [Container];
    };
  };
}

describe("kubernetes.yaml", () => {
  const documents = parseAllDocuments(readFileSync(join(EXAMPLES, "fleet", "kubernetes.yaml"), "utf8"));
  const manifests = documents.map((one) => one.toJS() as Manifest);
  const deployments = manifests.filter(({ kind }) => kind === "Deployment");
  const specOf = (name: string): Deployment =>
    deployments.find(({ metadata }) => metadata.name === name)?.spec as unknown as Deployment;

  test("has a front and a worker, whose commands, variables, ports and probes exist", () => {
    expect(documents.flatMap(({ errors }) => errors)).toEqual([]);
    expect(deployments.map(({ metadata }) => metadata.name)).toEqual(["readme-moe-front", "readme-moe-worker"]);
    for (const { metadata } of deployments) {
      const { selector, template } = specOf(metadata.name);
      const [container] = template.spec.containers;
      const { flags, variables } = parseCommand(container.command);
      expect(template.metadata.labels).toEqual(selector.matchLabels);
      expect(variables).toEqual(expect.arrayContaining(container.env.map(({ name }) => name)));
      expect(container.env.map(({ valueFrom }) => valueFrom.secretKeyRef.name)).toEqual(
        container.env.map(() => "fleet"),
      );
      expect(container.ports).toEqual([{ containerPort: flags["port"] }]);
      expect(container.livenessProbe.httpGet.path).toBe("/livez");
      // Memory of a model does not shrink.
      if (container.resources.limits) expect(container.resources.limits).toEqual(container.resources.requests);
      for (const probe of [container.startupProbe, container.readinessProbe, container.livenessProbe]) {
        if (probe)
          expect(probe.httpGet).toMatchObject({
            port: flags["port"],
            path: expect.stringMatching(/^\/(readyz|livez)$/) as string,
          });
      }
      expect(container.volumeMounts).toMatchObject([{ name: template.spec.volumes[0]?.name, mountPath: "/model" }]);
      const scraped = template.metadata.annotations?.["prometheus.io/port"] ?? flags["port"];
      expect(Number(scraped)).toBe(flags["port"]);
      const { drainMs = 0, noticeMs = 0 } = flags as Record<string, number>;
      expect(1000 * template.spec.terminationGracePeriodSeconds).toBeGreaterThan(drainMs + noticeMs);
    }
  });

  test("sends requests to fronts, and scales workers by a metric that they have", () => {
    const [service] = manifests.filter(({ kind }) => kind === "Service");
    expect(service?.spec).toMatchObject({
      selector: specOf("readme-moe-front").selector.matchLabels,
      ports: [{ targetPort: 8080 }],
    });
    const [scaler] = manifests.filter(({ kind }) => kind === "HorizontalPodAutoscaler");
    const { scaleTargetRef, metrics } = scaler!.spec as {
      scaleTargetRef: object;
      metrics: { pods: { metric: { name: string }; target: { averageValue: string } } }[];
    };
    expect(scaleTargetRef).toEqual({ apiVersion: "apps/v1", kind: "Deployment", name: "readme-moe-worker" });
    const state = describeWorker({
      id: "w",
      promptVersion: "p",
      modelVersion: "m",
      info: { precision: "int8", maxNumSeqs: 32, kvCapacityTokens: 400 },
      publishedMs: 5,
      jobs: [],
      pulls: 0,
      measure: new EngineMeasure(),
      counters: newCounters(),
      isDraining: false,
      homes: {},
    });
    const [{ pods }] = metrics as [(typeof metrics)[number]];
    expect(workerMetrics(state)).toContain(`# TYPE ${pods.metric.name} gauge`);
    expect(Number(pods.target.averageValue)).toBeLessThan(state.maxNumSeqs);
  });
});
