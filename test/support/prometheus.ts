// Prometheus's text format, read without any library: https://prometheus.io/docs/instrumenting/exposition_formats

interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

const LINE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)",?/gy;

/** The samples of a whole answer; throws on a line that is none, and on a sample without a type. */
export class Scrape {
  readonly samples: readonly Sample[];

  constructor(text: string) {
    const types = new Map([...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name, type]) => [name, type]));
    this.samples = text.split("\n").flatMap((line) => {
      if (line === "" || line.startsWith("#")) return [];
      const [, name = "", labelText = "", value = ""] = LINE.exec(line) ?? [];
      const family = name.replace(/_(bucket|sum|count)$/, "");
      if (!types.has(name) && types.get(family) !== "histogram") throw new Error(`Expected a typed sample: ${line}`);
      const labels = [...labelText.matchAll(LABEL)].map(([, label = "", of = ""]) => [label, of] as const);
      return [{ name, labels: Object.fromEntries(labels), value: Number(value) }];
    });
  }

  /** The value of the only sample with this name and these labels; `undefined` where there is none. */
  value(name: string, labels: Readonly<Record<string, string>> = {}): number | undefined {
    const found = this.samples.filter(
      (sample) => sample.name === name && Object.entries(labels).every(([label, of]) => sample.labels[label] === of),
    );
    if (found.length > 1) throw new Error(`Expected one sample ${name} ${JSON.stringify(labels)}, got ${found.length}`);
    return found[0]?.value;
  }
}

export async function scrape(url: string): Promise<Scrape> {
  const response = await fetch(`${url}/metrics`);
  if (response.status !== 200) throw new Error(`Expected metrics, got ${response.status}`);
  return new Scrape(await response.text());
}
