// Calibration: tokens on which the kernel measures the inputs of a model's products, so that weights are rounded well.
// The texts are typical and of many kinds: variety matters more than length, since channels that are large are large
// nearly everywhere.

import { createHash } from "node:crypto";
import { calibrateModel, type CalibrateOptions, type CalibrationTokens } from "@readme-moe/kernel";
import type { InputStatistics, Model, Precision } from "@readme-moe/model";
import { openRouter, routeWhole } from "@readme-moe/router";

interface Calibration {
  /** Computed on first use, so not if the packed file is in the cache. */
  readonly statistics: InputStatistics;
  /** Changes whenever anything changes that packed weights depend on, besides the model. */
  readonly fingerprint: string;
}

interface CalibrationOptions extends CalibrateOptions {
  readonly cacheFolder?: string | undefined;
}

type TokenLists = readonly (readonly number[])[];

const NUM_SCATTERED = 4;
const SCATTERED_TOKENS = 64;
const TEXT_TOKENS = 256;
// Changes when the same tokens give other statistics.
const VERSION = 2;

/** Chooses the tokens to measure with. @returns `undefined` for precisions that round no weights */
export async function calibrationOf(
  model: Model,
  precision: Precision,
  options: CalibrationOptions,
): Promise<Calibration | undefined> {
  // An encoder's norms are part of its stream, so that they cannot take factors of a product's inputs.
  // Layers that read the keys or the inputs of others do not run a few at a time.
  if (precision === "fp32" || precision === "file" || model.config.encoder || model.config.normsValues)
    return undefined;
  const isText = precision === "int4";
  const tokens = isText ? await textTokens(model) : scatteredTokens(model);
  const sequences = async () => (isText ? routed(model, tokens, options) : inTurn(tokens, model.experts.names.length));
  const fingerprint = createHash("sha256")
    .update(`${VERSION} ${JSON.stringify(tokens)}`)
    .digest("hex")
    .slice(0, 16);
  return { statistics: calibrateModel(model, sequences, options), fingerprint };
}

/**
 * Takes tokens from the whole vocabulary. They show large channels as well as text does, which is enough for 8 bits.
 */
function scatteredTokens({ config: { vocabSize, contextTokens } }: Model): TokenLists {
  const length = Math.min(SCATTERED_TOKENS, contextTokens);
  return inPieces(meaninglessTokens(NUM_SCATTERED * length, vocabSize), length);
}

/** Takes tokens of typical text; for a model without a tokenizer, tokens of the whole vocabulary. */
async function textTokens(model: Model): Promise<TokenLists> {
  const { vocabSize, contextTokens } = model.config;
  const text = await model.loadText().catch(() => undefined);
  const ids = text
    ? CALIBRATION_TEXTS.flatMap((document) => Array.from(text.tokenizer.encode(document)))
    : meaninglessTokens(TEXT_TOKENS, vocabSize);
  return inPieces(ids, Math.min(TEXT_TOKENS, contextTokens));
}

function inPieces(ids: readonly number[], length: number): TokenLists {
  const count = Math.ceil(ids.length / length);
  return Array.from({ length: count }, (_, index) => ids.slice(index * length, (index + 1) * length));
}

/** Lists tokens from the whole vocabulary, in an order without meaning. */
function meaninglessTokens(count: number, vocabSize: number): readonly number[] {
  return Array.from({ length: count }, (_, index) => (index * 7919) % vocabSize);
}

/** Adds the experts that the model's router chooses; without a router, all experts in turn. */
async function routed(
  model: Model,
  sequences: TokenLists,
  { threads, cacheFolder, kernel }: CalibrationOptions,
): Promise<readonly CalibrationTokens[]> {
  const numExperts = model.experts.names.length;
  if (numExperts === 1 || !model.router) return inTurn(sequences, numExperts);
  const router = await openRouter(model, "router", { threads, cacheFolder, kernel });
  try {
    const experts = await routeWhole(router, sequences);
    return sequences.map((tokenIds, index) => ({ tokenIds, experts: experts[index] ?? [] }));
  } finally {
    await router.dispose();
  }
}

/** Adds experts so that each token has a different expert from the one before. */
function inTurn(sequences: TokenLists, numExperts: number): readonly CalibrationTokens[] {
  return sequences.map((tokenIds) => ({ tokenIds, experts: tokenIds.map((_, index) => index % numExperts) }));
}

export const CALIBRATION_TEXTS: readonly string[] = [
  // Arthur Conan Doyle, The Adventures of Sherlock Holmes (public domain)
  `"And yet," said I, smiling, "I cannot quite hold myself absolved from the charge of sensationalism which has been urged against my records."
"You have erred, perhaps," he observed, taking up a glowing cinder with the tongs and lighting with it the long cherry-wood pipe which was wont to replace his clay when he was in a disputatious rather than a meditative mood--"you have erred perhaps in attempting to put colour and life into each of your statements instead of confining yourself to the task of placing upon record that severe reasoning from cause to effect which is really the only notable feature about the thing."
"It seems to me that I have done you full justice in the matter," I remarked with some coldness, for I was repelled by the egotism which I had more than once observed to be a strong factor in my friend's singular character.
"No, it is not selfishness or conceit," said he, answering, as was his wont, my thoughts rather than my words. "If I claim full justice for my art, it is because it is an impersonal thing--a thing beyond myself. Crime is common. Logic is rare. Therefore it is upon the logic rather than upon the crime that you should dwell. You have degraded what should have been a course of lectures into a series of tales."
It was a cold morning of the early spring, and we sat after breakfast on either side of a cheery fire in the old room at Baker Street.`,
  // Herman Melville, Moby-Dick (public domain)
  `Nor was Ahab unmindful of another thing. In times of strong emotion mankind disdain all base considerations; but such times are evanescent. The permanent constitutional condition of the manufactured man, thought Ahab, is sordidness. Granting that the White Whale fully incites the hearts of this my savage crew, and playing round their savageness even breeds a certain generous knight-errantism in them, still, while for the love of it they give chase to Moby Dick, they must also have food for their more common, daily appetites. For even the high lifted and chivalric Crusaders of old times were not content to traverse two thousand miles of land to fight for their holy sepulchre, without committing burglaries, picking pockets, and gaining other pious perquisites by the way. Had they been strictly held to their one final and romantic object--that final and romantic object, too many would have turned from in disgust. I will not strip these men, thought Ahab, of all hopes of cash--aye, cash. They may scorn cash now; but let some months go by, and no perspective promise of it to them, and then this same quiescent cash all at once mutinying in them, this same cash would soon cashier Ahab.
Nor was there wanting still another precautionary motive more related to Ahab personally.`,
  // in the manner of an encyclopedia
  `The Danube is the second-longest river in Europe, after the Volga. It rises in the Black Forest, flows for about 2,850 kilometres through ten countries, and reaches the Black Sea in a delta that is famous for its birds. In the Roman Empire it was for centuries the northern frontier; later it became an important trade route, and since 1992 a canal has joined it to the Main and the Rhine. Four capital cities lie on its banks: Vienna, Bratislava, Budapest and Belgrade. About 20 million people drink its water. The mean discharge near its mouth is about 6,500 cubic metres per second, most of it from melting snow in the Alps and from the rivers Inn, Drava, Tisza and Sava.

A transistor is a device with at least three terminals that amplifies or switches electrical signals. The first working one was built in December 1947 by John Bardeen and Walter Brattain at Bell Labs. Today most are made of silicon, and a processor for a telephone holds more than ten billion (10^10) of them on a square centimetre.`,
  // in the manner of the web
  `10 Tips for Growing Tomatoes on a Balcony

Updated March 3, 2023 | 6 min read

Nothing tastes better than a tomato that you picked yourself! You don't need a garden: a sunny balcony, a big pot and a little patience will do. Here's what we've learned over the years:

1. Choose the right variety. Cherry tomatoes are the easiest for beginners.
2. Give each plant at least 20 liters (5 gallons) of soil.
3. Water in the morning, and never on the leaves.
4. Feed once a week as soon as the first flowers appear.

Q: My tomatoes have black spots at the bottom. What's wrong?
A: That's blossom-end rot. It comes from too little calcium, mostly because of irregular watering. Remove the fruits, keep the soil evenly moist, and the next ones should be fine.

Subscribe to our newsletter for more tips: hello@example.com. Follow us! #gardening #tomatoes`,
  // code
  `import { createServer } from "node:http";

export interface Route {
  readonly path: string;
  readonly handler: (request: Request) => Promise<Response>;
}

/** Finds the handler of a path, the longest prefix first. */
export function findRoute(routes: readonly Route[], path: string): Route | undefined {
  const sorted = [...routes].sort((a, b) => b.path.length - a.path.length);
  for (const route of sorted) {
    if (path.startsWith(route.path)) return route;
  }
  return undefined;
}

const server = createServer((req, res) => {
  res.writeHead(200, { "content-type": "application/json" });
  res.end(JSON.stringify({ ok: true, url: req.url, at: Date.now() }));
});
server.listen(8080, () => console.log("listening on http://localhost:8080"));`,
  // code
  `def fibonacci(n: int) -> int:
    """Return the n-th Fibonacci number (0, 1, 1, 2, 3, 5, 8, ...)."""
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


class Stack:
    def __init__(self):
        self._items = []

    def push(self, item):
        self._items.append(item)

    def pop(self):
        if not self._items:
            raise IndexError("pop from an empty stack")
        return self._items.pop()


if __name__ == "__main__":
    print([fibonacci(i) for i in range(10)])  # [0, 1, 1, 2, 3, 5, 8, 13, 21, 34]

SELECT c.name, COUNT(*) AS orders, SUM(o.total) AS revenue
FROM customers AS c JOIN orders AS o ON o.customer_id = c.id
WHERE o.created_at >= '2024-01-01' AND o.status <> 'cancelled'
GROUP BY c.name HAVING SUM(o.total) > 1000 ORDER BY revenue DESC LIMIT 20;

#include <stdio.h>
int main(void) {
    for (int i = 0; i < 3; i++) printf("%d: %s\\n", i, i % 2 ? "odd" : "even");
    return 0;
}

{"id": 17, "name": "Widget", "tags": ["red", "small"], "price": 9.99, "stock": null, "size": {"w": 10, "h": 4}}`,
  // in the manner of a paper
  `\\section{Introduction}
Let $f\\colon \\mathbb{R}^n \\to \\mathbb{R}$ be convex and differentiable with $L$-Lipschitz gradient. Gradient descent with step size $\\eta = 1/L$ satisfies
\\begin{equation}
f(x_k) - f(x^*) \\le \\frac{L \\lVert x_0 - x^* \\rVert^2}{2k},
\\end{equation}
where $x^*$ is a minimiser. We show that the bound is tight up to a constant, and that momentum improves the rate to $O(1/k^2)$. Experiments on three data sets (Table 2) confirm the theory: the proposed method needs 38% fewer iterations than the baseline ($p < 0.01$, $n = 120$). Related work includes [3, 7, 12]. The remainder of this paper is organised as follows.`,
  // chat
  `<|im_start|>system
You are a helpful assistant.<|im_end|>
<|im_start|>user
Can you explain in two sentences why the sky is blue?<|im_end|>
<|im_start|>assistant
Sunlight is scattered by the molecules of the air, and short wavelengths (blue) are scattered much more than long ones (red). So the light that reaches our eyes from all over the sky is mostly blue.<|im_end|>
<|im_start|>user
Thanks! What is 17 * 24?<|im_end|>
<|im_start|>assistant
17 * 24 = 17 * 20 + 17 * 4 = 340 + 68 = 408.<|im_end|>`,
  // Universal Declaration of Human Rights, article 1
  `All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience and should act towards one another in a spirit of brotherhood.
Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt und sollen einander im Geiste der Brüderlichkeit begegnen.
Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de conscience et doivent agir les uns envers les autres dans un esprit de fraternité.
Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y conciencia, deben comportarse fraternalmente los unos con los otros.
Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и должны поступать в отношении друг друга в духе братства.
人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。
すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。
يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.`,
];
