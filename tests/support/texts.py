"""Small texts, all written for this project, that tests feed to tokenizers, readers and models.

Main entries: `PROSE` to train and tune on, `UNICODE_SAMPLES` to break things with, `ONE_LINERS` as records.
Invariant: every text encodes to UTF-8 (no lone surrogates), and invisible characters are written as escapes.
"""

# A tale in some three dozen paragraphs, hard-wrapped as in an old book and set apart by blank lines.
PROSE: str = """\
In the autumn of that year, when the roads above Harrowmere were already soft with rain, there came
to the mill a stranger who asked for nothing but the use of a chair.

The miller, who was a cautious man, looked first at the stranger's boots and then at the sky. "You
may have the chair," said he, "but the fire beside it is a penny more."

"I have no penny," the stranger replied, "yet I have a story, and I never heard of a fire that was
put out by one."

Now the miller's wife was fond of stories, and before her husband could answer she had drawn the
chair to the hearth and set a second one opposite.

"There was once," the stranger began, "a clockmaker who was so exact that the sun was said to
consult him. He lived alone, for no guest had ever come at the proper time."

One night in March he heard a knocking at his door. He looked at the eleven clocks upon the wall, and
every one of them gave a different hour; such a thing had not happened since his father's day.

He opened, and found upon the step a child with a lantern. "If you please," said she, "my grandmother
has lost an afternoon, and she believes that it was sent to you by mistake."

The clockmaker was a good deal astonished, but he was an honest man, and he went to look. Behind the
tallest clock, among the dust, lay something warm and yellow, about the size of a loaf.

"Is this it?" he asked. The child held up her lantern, which seemed at once to be hardly necessary,
and said that it was very like.

He wrapped the afternoon in his second-best coat, and the two of them set out together across the
common, where the frost lay thick and the gorse made shapes in the dark.

"Is your grandmother often so careless?" he asked her, for he was not used to children, and supposed
that one addressed them much as one did the parish clerk.

"She has never lost so much as a button," the child answered. "It was not lost by carelessness, sir. It
was lost by waiting, which is quite another thing, and takes a great deal longer."

They had not gone a mile when they met a tall gentleman in grey. He lifted his hat, and inquired, in
a voice as dry as paper, what they carried that was so bright.

"A loaf," said the clockmaker, who had never told a lie before, and did not do it well. "It is
remarkably fresh," observed the gentleman, and he fell into step beside them.

At the ford the water was high. The gentleman offered to hold the bundle while the others crossed;
the child said nothing, but she trod very hard upon the clockmaker's foot.

"I thank you, sir," said the clockmaker, "but it has been promised, and a promise ought not to change
hands in the middle of a river."

At this the gentleman laughed, and his laughter went on for some time after he was gone, as the
ringing of a bell does when the rope is still.

After the ford the road began to climb. The child grew tired, and the clockmaker, having looked about
him to be sure that nobody saw, took her up on his shoulders, lantern and all.

From the top of the hill they could see the whole of the valley asleep, with its seven steeples and its
one lamp. "That is our window," said she; "she has left it burning since before I was born."

The cottage stood at the end of a lane with no other houses in it. An old woman sat by the window with
her hands in her lap, like one who is waiting for a coach.

"You have been very quick," she told the child, though they had been half the night upon the road.
"Put it down there, by the geraniums, and mind that it does not run."

When the coat was unfolded the whole room filled with light. There were bees in it, and the noise of a
cart going by, and somebody, a long way off, was calling the name of a dog.

"It was the fourth of June," said the old woman. "I was nineteen, and there was a young man who was to
come at three. I waited, and the hours went, and I could never learn where."

The clockmaker turned his hat about in his hands. He remembered a lane, and a gate, and that he had
stopped upon the way to mend a watch for a gentleman in grey.

"I believe, madam," said he, "that I am some fifty years late." It was the first time that he had ever
had to say so, and his voice was not steady.

She looked at him for as long as it takes to thread a needle. Then she moved the geraniums, so that
there was room upon the sill for two cups.

"It wants five minutes to three," said she, "by that light; so that if you will go out and knock, we
need not say anything more about it."

"And what shall I say when you open?" he asked, with his hand upon the latch. "You will beg my pardon,"
said the old woman, "and then you will remark upon the weather, which is very fine."

He went out. The child shut the door behind him, and counted to ten upon her fingers; and he knocked.

Here the stranger stopped, and held his hands to the miller's fire. The rain had left off, and there
was no sound but the great wheel turning in the dark.

"And what became of the gentleman in grey?" the miller's wife demanded. "For I did not like him, and I
should wish to know that he was punished."

"He lost his watch," said the stranger, "and has had to ask the time of everybody since. It is a hard
life, and teaches manners, but there are chairs to be had along the way."

The miller laid another log upon the fire, and for once he said nothing of the price. "And the two of
them?" he asked. "Did they live long?" "All of one afternoon," said the stranger, "and it is not over."

He rose then, and thanked them, and put on his hat, which was grey. The miller observed that the clock
upon the mantel had stopped, and that the kettle, which had been cold, was singing.

"Wife," said he, when the door had closed, "what is the hour?" She went to the window, and was a long
while answering.

"I cannot tell," she said at last, "but there are bees in the lane; and somebody is calling the dog."
"""

UNICODE_SAMPLES: tuple[str, ...] = (
    "",
    " ",
    "\n",
    "  two spaces before, two after  ",
    "Щенок съел чужой эклер: Ёжик, йод, подъезд № 5 — «да».",
    "за\u0301мок и замо\u0301к, и\u0306 (decomposed) и й (composed)",
    "Ґанок, їжак, є; ъгъл; љубав, џез, ђак, ћошак",
    "猫が窓のそばで寝ている。値段は三百円です。",
    "今天天气很好，我们去公园吧！𠮷𡈽",
    "고양이가 창가에서 자고 있다. \u1112\u1161\u11ab (decomposed 한)",
    "😀🎉🫠 plain emoji, then a keycap 7\ufe0f\u20e3 and a flag 🇺🇳",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "cook \U0001f469\U0001f3fd\u200d\U0001f373",
    "thumbs \U0001f44d\U0001f44d\U0001f3fb\U0001f44d\U0001f3ff, heart \u2764\ufe0f\u200d\U0001f525",
    "naïve café (composed), nai\u0308ve cafe\u0301 (decomposed)",
    "Z\u0351\u036b\u0343a\u0329\u0308lgo\u0300\u0301",
    "\u05d7\u05ea\u05d5\u05dc \u05d9\u05e9\u05df (Hebrew)",
    "\u0642\u0637\u0629 \u0646\u0627\u0626\u0645\u0629 (Arabic) \u200f123\u200e",
    "हिन्दी में बिल्ली, ภาษาไทยไม่มีช่องว่าง",
    "zero\u200bwidth, non\u200cjoiner, word\u2060joiner, soft\u00adhyphen, bom\ufeffinside",
    "no-break\u00a0space, thin\u2009space, ideographic\u3000space",
    "unix\nwindows\r\nold mac\rnext line\u0085line separator\u2028paragraph separator\u2029end",
    "\ttab first, then\t\ttwo tabs, then trailing newlines\n\n\n",
    "def f(x):\n    return {\"a\": [1, 2.5e-3], 'b': x ** 2}  # done\n",
    '{"text": "a \\"quoted\\" \\u00e9 \\n", "n": null}\n<p class="x">1 &lt; 2</p>',
    'C:\\temp\\*.txt && rm -- "$1"',
    "before<|endoftext|>after <|endoftext|>",
    "control \x00\x01\x1b[31mred\x1b[0m\x7f, private use \ue000, replacement \ufffd, last \U0010ffff",
    "don't DON'T we'll they've 1234567890 $3.50 50% ½ x² … “curly” ‘quotes’ – — ¿qué? ßẞ ﬁ",
    "a" * 300 + " " * 40 + "!?" * 30,
)

ONE_LINERS: tuple[str, ...] = (
    "Our mission statement has grown so long that it now has its own deputy.",
    "My bread has a lovely crust, all the way through.",
    "I was seasick on the pier.",
    "My dreams have gone over to repeats.",
    "I used to come home when I now get up.",
    "My comfort zone has a garden now.",
    "How should you wake a sleeping giant? By post.",
    "Where do lost umbrellas go? Somewhere sunny.",
    "The rabbit was supposed to be one rabbit.",
    "My knees now applaud whenever I stand up.",
    'A tuba is a very long way to say "oomph".',
    "My personal best is also my personal only.",
    "My goldfish forgot our anniversary again.",
    "The escape artist was due home on Thursday.",
    "Our twin town has asked for some time apart.",
    "I have the patience of a much shorter queue.",
    "My pet snail is house-trained by definition.",
    "The tide went out, and so did our sandwiches.",
    "My father taught me to swim by describing it.",
    "The secret of a long marriage is two blankets.",
    "The self-portrait was rejected because I had moved.",
    "My umbrella is the folding kind, and it chooses when.",
    "Never trust a shortcut that has a gift shop.",
    "Beware of any recipe that begins the night before.",
    "A deadline is the moment at which a job becomes interesting.",
    "My compass points north only when it feels appreciated.",
    "The revolving door let me in, thought about it, and let me out.",
    "At the giants' school, sports day takes place in two counties.",
    "The pancake race was won by a man who was only trying to catch the pan.",
    "The tailor let out my jacket, and it has not come back.",
    "If you must sit on a decision, choose one with a cushion.",
    "A crab walks sideways so that it can leave while seeming to stay.",
    "Hedgehogs hug with great caution and excellent reason.",
    "The dragon next door says he is only trying to keep the village warm.",
    "I asked the mountain for an answer, and it asked me the question again.",
    "The menu was in four languages and apologised in a fifth.",
    "We took the scenic route, and so did the lorry in front.",
    "Our train had no buffet car, but there was a man with an egg.",
    "The moon is so bright tonight that the burglars have postponed.",
    "A hammock holds two people for as long as they agree.",
)
