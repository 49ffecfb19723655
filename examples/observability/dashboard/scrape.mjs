// Reads Prometheus's text format: sums over labels, and changes since the scrape before.

/** @param {string} text @returns {{ name: string, labels: Record<string, string>, value: number }[]} */
export function samplesOf(text) {
  return text.split("\n").flatMap((line) => {
    const [, name, labels = "", value] = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line) ?? [];
    if (name === undefined) return [];
    const pairs = Array.from(labels.matchAll(/(\w+)="([^"]*)"/g), ([, label, of]) => [label, of]);
    return [{ name, labels: Object.fromEntries(pairs), value: Number(value) }];
  });
}

/** One scrape, and the one before it. */
export class Scrapes {
  /** @param {string} now @param {string} before */
  constructor(now, before) {
    this.now = samplesOf(now);
    this.before = samplesOf(before);
  }

  /** The sum of a metric's samples. */
  value(name) {
    return sum(this.now, name);
  }

  /** The increase of a counter. */
  gain(name) {
    return Math.max(0, sum(this.now, name) - sum(this.before, name));
  }

  /** The mean of a histogram's observations since the scrape before; `undefined` without any. */
  mean(name) {
    const count = this.gain(`${name}_count`);
    return count === 0 ? undefined : this.gain(`${name}_sum`) / count;
  }

  /** A metric's samples by one of its labels. */
  by(name, label) {
    return this.now.filter((sample) => sample.name === name).map(({ labels, value }) => [labels[label] ?? "", value]);
  }
}

function sum(samples, name) {
  return samples.reduce((total, sample) => total + (sample.name === name ? sample.value : 0), 0);
}
