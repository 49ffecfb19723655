import { isIPv6 } from "node:net";
import { expect, test } from "vitest";
import { networkOf } from "../../packages/express/src/http/request.ts";
import { randomInteger, seededRandom } from "../support/random.ts";

test.each([
  ["127.0.0.1", "127.0.0.1"],
  ["::ffff:10.1.2.3", "10.1.2.3"],
  ["::1", "0:0:0:0::/64"],
  ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"],
  ["2001:0db8:0001:0002::", "2001:db8:1:2::/64"],
  ["2001:db8::5", "2001:db8:0:0::/64"],
  ["fe80::1%eth0", "fe80:0:0:0::/64"],
  ["", ""],
])("the network of %j is %j", (address, network) => {
  expect(networkOf(address)).toBe(network);
});

test("the network is the first 64 bits of an address in any notation", () => {
  const random = seededRandom(64);
  for (let round = 0; round < 500; round++) {
    const [start, length] = [randomInteger(random, 8), 1 + randomInteger(random, 8)];
    const isLeftOut = (index: number): boolean => index >= start && index < start + length;
    const groups = Array.from({ length: 8 }, (_, index) => (isLeftOut(index) ? 0 : randomInteger(random, 65_536)));
    const hex = groups.map((group) => group.toString(16).padStart(randomInteger(random, 2) * 4, "0"));
    const short = `${hex.slice(0, start).join(":")}::${hex.slice(start + length).join(":")}`;
    const plain = groups.slice(0, 4).map((group) => group.toString(16));
    for (const written of [hex.join(":"), short, short.toUpperCase()]) {
      expect(isIPv6(written), written).toBe(true);
      expect(networkOf(written)).toBe(`${plain.join(":")}::/64`);
    }
  }
});
