//! Plots in which something is hard to do.

/// Something is hard until a tip is remembered.
pub const SKILL: &str = r#"
hero mate: girl boy | boy girl | boy boy | girl girl | critter critter
tries: 3..9

<opening:hero>

? <likes:hero>

{hero} wanted to learn to {skill}.
more than anything, {hero} wished to {skill}.
everyone {hero} knew could {skill}. Only {hero} could not.
one day {hero} saw how {mate} {skill.did}. "I want to do that too," {hero.he} thought.
"When I am big, I will {skill} like {mate}," {hero} said.

either

so {hero} got up early one {time} and tried. But {hero.he} {skill.failed}.
{hero} tried {skill.doing}, but {hero.he} {skill.failed}.
the first time, {hero} {skill.failed}. The second time it was even worse.
{hero} tried {tries} times, and each time {hero.he} {skill.failed}.

{mate} laughed. <sorrow:hero>
"I will never learn it!" <cried:hero>.
{hero} was {angry} and kicked a stone.
<sorrow:hero> "I give up," {hero.he} said.

or

{hero} was {scared} to try. "What if everybody laughs?" {hero.he} thought.
but {hero} had never tried it before. <fear:hero>
{hero} watched the others for {tries} days and did not dare to begin.

then {hero.he} tried at last, and {skill.failed}. Nobody laughed.
"Just try," <said:mate>. So {hero} tried, and {skill.failed}.
when {hero} was alone, {hero.he} tried it, and of course {hero.he} {skill.failed}.

end

{elder} saw it. "Do not give up. You must {skill.tip}," <said:elder>.
"I also {skill.failed} when I was small," <said:elder>. "the trick is this: {skill.tip}."
{mate} came over. "let me tell you what helped me. {skill.tip}," <said:mate>.
then {hero} asked {elder} for help. "it is simple. {skill.tip}, and do not be afraid," <said:elder>.
"Nobody can do it the first time," <said:elder>. "{skill.tip}, and you will see."

so {hero} tried again every day.
{hero} practiced before breakfast and after supper.
{hero} tried once more, and then once more.
for {tries} days, {hero} practiced {~softly} in the {outdoors}.
a whole {fair.season} long, {hero} practiced.

? on some days it went well, and on some days {hero.he} {skill.failed} again.
bit by bit, it got better.
{elder} watched and said nothing, but {elder.he} smiled.

then, on the {tries.nth} day, {hero} thought of the words: {skill.tip}. And all at once {hero.he} {skill.did}!
"{skill.tip}," {hero} said to {hero.himself}. Then it worked. {hero} {skill.did}!
one {fair} {time}, {hero} remembered to do as {hero.he} was told: {skill.tip}. And {hero.he} really {skill.did}.
{hero} took a deep breath. "{skill.tip}," {hero.he} whispered. And suddenly {hero} {skill.did} as if it were nothing.

"Look, I can {skill}!" <cried:hero>.
{hero} could not believe it. <glad:hero>
{mate} stared. "How did you learn to {skill}?" <asked:mate>.
everyone clapped, and {elder} clapped the loudest.

? soon {hero} taught {mate}'s little sister to {skill}. "{skill.tip}," {hero.he} told her.
"Who taught you?" <asked:mate>. "{elder} did," <answered:hero>.

{hero} learned that [every master was once a beginner|practice is the best teacher|you have to fail before you can fly].
it does not matter how often you fail, if you try once more.
good advice helps, but you have to do the work yourself.
step by step, everything can be learned.
nobody is born with the gift of {skill.doing}. It takes time.
"#;

/// Two rounds, points, and more than one way to win.
pub const CONTEST: &str = r#"
hero rival: boy girl | girl boy | girl girl | boy boy | critter critter
one: 3..7
two: 4..8
sum: one + two
step: 1..2
best: sum + step
less: sum - step

<dawn:hero>

every {fair.season} there was a {contest} in the {town}.
{hero} read a note on the wall. "{contest} on Sunday! The prize is a {prize}."
"There will be a {contest} {outdoors.at}," <said:elder>. "Do you want to try?"
the whole {town} was talking about the {contest}. Who would win the {prize}?

{hero} was good at {contest.doing}, but {rival} was good too.
"I will win," <said:rival>. "nobody is better at {contest.doing} than I am."
{hero} had practiced {contest.doing} for weeks. So had {rival}.
last year {rival} had won. This year {hero} hoped for more.

on the day of the contest, {hero} was {scared}.
{fair.line} when the day came. <fear:hero>
{hero} put on {hero.his} lucky {color} {clothes}.
"Do your best, that is enough," <said:elder>.

either

in the first round, {hero} got {one} points. In the second round {hero.he} {contest.did} and got {two}.
{hero} got {one} points at first. Then {hero.he} {contest.did}, which gave {two} more.
first {hero.he} was slow and got only {one} points. But then {hero.he} {contest.did}. {two} points!

that made {sum} points. {rival} had {less}.
"{one} and {two} make {sum}," the judge said. {rival} got {less}, so {hero} had won.
all in all {hero} had {sum} points, {step} more than {rival} with {less}.

{hero} got the {prize}, and everyone cheered.
"The {prize} goes to {hero}!" <cried:elder>.
<glad:hero> now the {prize} belonged to {hero}.

{rival} was {~sad}. "You were great too," <said:hero> and shook {rival.his} hand.
{hero} saw that {rival} was {~sad} and shared the {prize} with {rival.him}.
"Will you teach me?" <asked:rival>. "I was too proud to practice." "Gladly," <answered:hero>.

a good winner is kind to those who lose.
{hero} learned that hard work pays.
it is nice to win, and nicer to win as a friend.

or

in the first round, {hero} got {one} points, and in the second {two}. That made {sum}.
{hero} {contest.did} and got {one} points. In the next round {hero.he} got {two}. {sum} points in all!
the judges gave {hero} {one} points for the first try and {two} for the second.

but {rival} {contest.did} and got {best}.
{rival} had {best} points, {step} more than {sum}. So {rival} won the {prize}.
then they counted for {rival}. It was {best}, and {hero} had only {sum}.

<sorrow:hero>
{hero} felt {~sad}, but {hero.he} went over to {rival}. "You have earned the {prize}," {hero.he} said.
for a moment {hero} was {angry}. Then {hero.he} took a deep breath and clapped.
"Next time," {hero} thought, "I will practice more."

{elder} hugged {hero}. "I saw how hard you tried. I am proud of you," <said:elder>.
{rival} was {~glad}. "I only won because you made me do my best," {rival.he} said.
"You are the fairest {hero.kind} I know," <said:rival> and gave {hero} half of the prize.

it is no shame to lose if you did your best.
{hero} learned that a friend is a better prize than a {prize}.
someone has to be second, and the second can be happy too.
not every contest can be won, but from every contest you can learn.

or

{hero} was far ahead. Then {rival} fell and hurt {rival.his} leg.
halfway through, {hero} looked back. {rival} was sitting on the ground.
"Ouch!" {rival} had tripped over {junk}.

<thought:hero> then {hero.he} turned around and helped {rival} up.
{hero} could see the {prize}. But {hero.he} stopped and {~walk.walked} back to {rival}.
"Never mind the {prize}," <said:hero>. {hero.he} sat down beside {rival} and tied a {color} {clothes} around the leg.

so someone else won. {hero} and {rival} came in last, arm in arm.
they reached the end together, when all the others were already there.
"Why did you stop? You could have won," <said:rival>. "It is no fun without you," <said:hero>.

but the judge gave {hero} a {~prize} for the kindest heart.
the crowd cheered louder for {hero} than for the winner.
"You are my hero," <said:rival>. And they shared a plate of {fruit}.

sometimes the one who comes last has won the most.
{hero} learned that some things matter more than winning.
kindness is a contest that everyone can win.

end
"#;

/// Somebody needs help with their work, and gives something in return.
pub const NEIGHBOR: &str = r#"
hero: girl | boy | critter
hours: 2..5

<opening:hero>

? <sky:hero>

near the {landmark} stood the {job.shop} of {job}. {hero} {walk.walked} past it every day.
every {time}, {hero} waved to {job} in the {job.shop}.
{hero} liked to visit {job}, who worked in the {job.shop} with a {job.tool}.
on the way to the {market}, {hero} passed the {job.shop}, where {job} lived and worked.

one day {job} did not wave. {job.woe}.
but this time {job} looked {~sad}. "What is wrong?" <asked:hero>. "everything," <answered:job>. {job.woe}.
that {time} {job} sat on the steps with {job.his} head in {job.his} hands. {job.woe}.
"Oh dear, oh dear!" {job} said. {job.woe}, and there was no one to help.

? "I am too old for this," <said:job>.
"If only I had two more hands," <said:job>.
"I shall never be done by evening," <said:job>.

"I can help you," <said:hero>.
{hero} had wanted to {outdoors.do}, but {hero.he} put {hero.his} bag down. "What can I do?" {hero.he} asked.
<thought:hero> "let me help," {hero.he} said.
"I have {hours} hours, and I have two hands," <said:hero>.
{hero} rolled up {hero.his} sleeves. "Where do we begin?" {hero.he} asked.

"Do you know how to {job.do}?" <asked:job>. "no, but I can learn it."
"You could {job.do}," <said:job> and showed {hero} how to do it.
{job} gave {hero} a {job.tool}. "Careful with the {job.tool}. First you have to {job.do}," {job.he} said.
"Then please {job.do}, while I see to the rest," <said:job>.

so {hero} {job.did}, and {job} worked with the {job.tool}.
{hero} {job.did} for {hours} hours. {hero.his} arms got tired, but {hero.he} did not stop.
first {hero} was slow. But soon {hero.he} {job.did} as if {hero.he} had never done anything else.
while {hero} {job.did}, {job} told {hero.him} how {job.he} had come to the {town} many years ago.

? once the {job.tool} fell down with a crash. "Never mind," <said:job>.
{hero} made a mistake and was {scared} that {job} would be {angry}. But {job} only laughed.
at noon they ate {supper} and {few} {fruit}.

after {hours} hours, everything was done.
by evening the {job.shop} looked {pretty} again.
at last {job} put the {job.tool} away. "we did it," {job.he} said.
when the sun went down, there was nothing left to do.

<thanks:hero> <said:job>. {job.he} gave {hero} {job.pay}.
"This is for you," <said:job>. It was {job.pay}.
{job} wanted to pay, but {hero} shook {hero.his} head. So {job} gave {hero.him} {job.pay} as a gift.
before {hero} left, {job} went to the back of the {job.shop} and came out with {job.pay}.

either

{hero} carried it home with care. <glad:hero>
at home {hero} showed it to {elder}. "where did you get {job.pay}?" <asked:elder>. "I {job.did}," <answered:hero>.
{hero} shared it with {elder}, who was proud of {hero.him}.

helping others [makes two people happy|is its own reward].
{hero} learned that many hands make light work.
a little help at the right time is worth more than gold.
work is only half as hard when you do it together.

or

the next {time}, {hero} came back. "May I {job.do} again?" {hero.he} asked.
from then on, {hero} helped in the {job.shop} every week.
years later, {hero} had a {job.shop} too, and {job.did} every day.

{job} was never alone again.
and now it is {hero} who waves to all the children from the {job.shop}.
{hero} had found not only work but a friend.
those who give their time give the best they have.

end
"#;

/// Seeds, waiting, and a danger to the plants.
pub const GARDEN: &str = r#"
hero helper: girl boy | boy girl | critter critter | girl girl
seeds: 7..12
lost: 2..4
kept: seeds - lost
weeks: 3..6

<dawn:hero>

{elder} gave {hero} {seeds} seeds. "if you take care of them, they will become {plant}," {elder.he} said.
{hero} wanted to grow {plant} in the garden. {hero.he} bought {seeds} seeds at the garden shop.
in a box {nook}, {hero} found a paper bag with {seeds} seeds. On it was written: {plant}.
"What do you want to plant?" <asked:elder>. "{plant}!" <cried:hero>. So they got {seeds} seeds.

{hero} dug {seeds} little holes and put one seed into each.
{hero} planted all {seeds} in a row and watered them {~softly}.
with a {small} spade {hero} made a bed {spot} and put the {seeds} seeds into the ground.
{hero} pushed the {seeds} seeds into the dark earth and covered them {~softly}.

the next day, {hero} looked. There was nothing to see.
{hero} looked every {time}, but nothing happened.
"Why do they not grow?" <asked:hero> after one day. "be patient," <answered:elder>.
one day passed, and then another. The earth stayed brown.

? {helper} laughed. "There is nothing in there," <said:helper>.
{hero} wanted to dig the seeds up again. "do not do that. They need to sleep first," <said:elder>.
{hero} sang to the bed and told it about {hobby}.

so {hero} watered the bed for {weeks} weeks.
{weeks} weeks went by, and {hero} never forgot the water.
{hero} waited, and pulled the weeds, and waited again.
it took {weeks} weeks, with sun and with rain.

then there was a tip of green, and another one. All {seeds} had come up!
one {fair} morning, {hero} saw {seeds} green tips. "they are growing!" {hero.he} cried.
and one day {seeds} small plants stood in the bed. <glad:hero>

but {plant.pest} liked them too. In one night, {lost} plants were gone. {kept} were left.
then {plant.pest} came and ate {lost} of them. Now there were only {kept}.
it was a sad sight. {lost} of the {seeds} plants had been eaten by {plant.pest}. {hero} counted the rest: {kept}.

either

<sorrow:hero> but then {hero.he} {plant.guard}.
{hero} did not give up. {hero.he} {plant.guard}, as {elder} had shown {hero.him}.
"We have to keep {plant.pest} away," <said:helper>. So {hero} {plant.guard}, and {helper} helped.

it worked. All {kept} plants stayed alive.
after that, {plant.pest} did not come back, and the {kept} plants grew and grew.
now the other {kept} were safe.

or

{helper} came with {few} friends. They {plant.guard}.
"I can help you," <said:helper>. {helper.he} {plant.guard}, while {hero} fetched water.

with so much help, all {kept} plants were saved.
{plant.pest} looked, turned around and never came back. {kept} plants were safe.

or

"They are hungry too," <said:hero>. {hero.he} made a second bed, just for {plant.pest}.
{hero} set a plate of {~fruit} beside the bed, and {plant.pest} left the {kept} plants alone.

"Everyone needs to eat," <said:hero>, and {helper} had to agree.
so {plant.pest} had their share, and {hero} kept {kept} plants.

end

in the end, the {plant} were {plant.grew}.
the {plant} grew {plant.grew}. Nobody in the {town} had prettier ones.
in the end there were {kept} plants full of {plant}, {plant.grew}.
what {plant} they were! they grew {plant.grew}.

{hero} gave some of the {plant} to {helper} and some to {elder}.
"And they came from {seeds} tiny seeds," <said:elder>.
{hero} saved {seeds} seeds for the next year.
{helper} was amazed. "I would have given up," <said:helper>.

{hero} learned to be patient.
good things take time.
what you care for will grow, be it {plant} or a friendship.
who wants to have {plant} must not only plant but also wait.
a garden teaches you to hope.
"#;

/// Each brings a part; nothing works without all of them.
pub const BUILDING: &str = r#"
hero second third: girl boy girl | boy girl boy | boy boy girl | critter critter critter
mine yours theirs: part part part
days: 2..5

<dawn:hero>

one {time}, {hero} had an idea. "Let us make a {build}!" {hero.he} told {second} and {third}.
{hero}, {second} and {third} wanted to build a {build} out of {build.from}.
"What shall we do?" <asked:second>. "we could build a {build}," <answered:third>. {hero} liked that.
behind the {hero.home} there was a heap of {build.from}. "That is enough for a {build}!" <cried:hero>.

{hero} had a {mine}. {second} brought a {yours}, and {third} brought a {theirs}.
"I have a {mine}," <said:hero>. "And I have a {yours}," <said:second>. {third} had only a {theirs}.
{second} {walk.walked} home and got a {yours}. {third} got a {theirs}, and {hero} took {elder}'s {mine}.

either

they started right away. With the {mine}, they could {mine.use}.
{hero} used the {mine} to {mine.use}, while the others carried the {build.from}.
the first day went well. {hero} showed them how to {mine.use}.

but then {second} and {third} began to fight. "My {yours} is more important!" <cried:second>. "No, my {theirs} is!" <cried:third>.
"We do not need your {theirs}," {second} told {third}. {third} was {angry} and went home.
then each of them wanted to be the boss. {third} took the {theirs} and left.

so {hero} and {second} went on alone. But without the {theirs} they could not {theirs.use}.
without the {theirs}, there was no way to {theirs.use}. The {build} fell over.
soon they saw that they had to {theirs.use}. Only {third} had a {theirs}.

{second} {walk.walked} to {third}. "I am sorry. We need your {theirs}, and we miss you," {second.he} said.
"I was wrong," <said:second>. "We can not {theirs.use} without you. Please come back, {third}."
{hero} talked to {third}, and {second} said sorry. Then {third} came back with the {theirs}.

{third} came and helped to {theirs.use}. {second} used the {yours} to {yours.use}.
now one of them could {mine.use}, one could {yours.use}, and one could {theirs.use}.

{hero} learned that every part is needed, the {mine}, the {yours} and the {theirs}.
alone, none of them could do it. Together they could.
a team is only as strong as its friendship.

or

every day after school, they worked on it. {hero} used the {mine} to {mine.use}.
{second} took the {yours} to {yours.use}, and {third} took the {theirs} to {theirs.use}.
they made a plan: {hero} would {mine.use}, {second} would {yours.use}, and {third} would {theirs.use}.

after {days} days, {storm} {storm.did}, and in the morning the {build} was gone.
on the {days.nth} day, it fell down with a crash.
then {elder} came and looked. "it will not hold," {elder.he} said. And it did not.

<sorrow:third> "let us stop," <said:third>.
"All that work for nothing!" <cried:second>.
{second} wanted to give up. But {hero} picked up the {mine} again.

"We know how to do it now," <said:hero>. "the second time it will go faster."
"This time we use more {build.from}," <said:hero>, and they began again.
{elder} gave them a good tip and {few} {fruit}. Then they started over.

to fall down is not bad if you get up again.
they learned that a second try is often better than the first.
who builds with friends builds well.

end

after {days} days, the {build} was ready.
at last it was done. What a {pretty} {build} it was!
{few} days later, the {build} stood there, and it held.

they {build.use}.
{hero}, {second} and {third} {build.use} {time.rest}.
"Come and see!" <cried:third>. And then they {build.use}.
from then on, they {build.use} every day.

? "Whose {build} is it?" <asked:elder>. "it is ours," <answered:hero>.
on the door they wrote three names: {hero}, {second} and {third}.
they painted it {color}, for that was the color all three liked.
"#;

/// Instruments and their sounds: loud alone, beautiful together.
pub const BAND: &str = r#"
hero second third: boy girl boy | girl boy girl | girl girl boy | critter critter critter
mine yours theirs: instrument instrument instrument
days: 2..6

<opening:hero>

{hero} loved music and had a {mine}.
{hero} got a {mine} from {elder}. "{mine.sound}," it went.
all day long one could hear it: "{mine.sound}, {mine.sound}." {hero} was playing the {mine}.

"Let us make a band," <said:hero> to {second} and {third}. {second} had a {yours}, and {third} had a {theirs}.
{second} could play the {yours}, and {third} could play the {theirs}. "we should play together," <said:second>.
in {days} days there would be a party in the {town}. "we could play there," {hero} told {second} and {third}.

so they met {outdoors.at}. {hero} {mine.played} the {mine}, {second} {yours.played} the {yours}, and {third} {theirs.played} the {theirs}.
on {fair} days they met {outdoors.at}. {second} brought the {yours}, {third} brought the {theirs}, and {hero} brought the {mine}.
they met in the {~cozy} {hero.home}. "One, two, three!" <cried:hero>, and they began.

"{mine.sound}!" went the {mine}. "{yours.sound}!" went the {yours}. "{theirs.sound}!" went the {theirs}. It was terrible.
the {mine} went "{mine.sound}," and the {yours} went "{yours.sound}," but never at the same time.
"{mine.sound}, {yours.sound}, {theirs.sound}!" it went, for everybody played as loudly as they could.

{animal} {animal.cried} and ran away.
"Please stop!" <cried:elder>. "my poor ears!"
{few} windows were closed all around.
even {animal}, who had been asleep, {animal.came} off to {animal.home}.

either

"You are too loud," {second} told {third}. "and you are too slow!" <said:third>.
they began to fight. "it is all because of your {theirs}," <said:second>.

{elder} came in. "you are playing, but you are not listening," {elder.he} said.
"A band has ears as well as hands," <said:elder>. "listen to each other."

so first only the {yours} played. "{yours.sound}," very softly. Then came the {theirs}, and last the {mine}.
they closed their eyes. {second} began with the {yours}, {third} followed with the {theirs}, and {hero} came last.

{hero} learned that listening is the most important part of music.
alone each was loud. Together they were beautiful.
music begins with being quiet.

or

{third} put the {theirs} down. "I can not do it," {third.he} said. <sorrow:third>
"I only know one note," <said:third> and hid the {theirs} {nook}.

"One note is enough, if it comes at the right time," <said:hero>.
"We need your {theirs}. Without its {theirs.sound}, there is a hole in the song," <said:second>.

so they made a song for {third}: "{mine.sound}, {yours.sound}," and then, at the end, "{theirs.sound}!"
{hero} nodded each time the {theirs} had to come. "{theirs.sound}!" it went, and it was just right.

everyone has a part to play, even if it is a small one.
{third} learned that nobody has to do everything.
the smallest note can make the song.

end

they practiced for {days} days.
every {time}, they tried it again, {days} days long.
{days} days later, they could do it.

then the day of the party came. <fear:second>
at the party all the people of the {town} stood in front of them. {hero} gave a sign.
{hero} wore a {color} {clothes}, {second} a {~color} one.

"{mine.sound}, {yours.sound}, {theirs.sound}," it went, and people began to dance.
the {mine}, the {yours} and the {theirs} sounded like one. Even {animal} came back and {animal.cried} along.
when the last "{theirs.sound}" was over, everyone clapped.

? "Again!" <cried:elder>. So they played it {few} times.
<glad:third> "that was us," {third.he} said.
they called their band "{mine}, {yours} and {theirs}."
"#;
